// The frame every part of the page shares: a titled section, its empty state and its error.

import { html } from "../vendor/preact-htm.js";
import { tokens } from "../format.js";

export function Panel({ id, title, aside, error, className = "", children }) {
  return html`
    <section class="panel ${className}" aria-labelledby=${id}>
      <header class="panel-head">
        <h2 id=${id}>${title}</h2>
        <div class="panel-aside">${aside}</div>
      </header>
      ${error ? html`<p class="panel-error" role="alert">Could not be read: ${error}</p>` : null}
      ${children}
    </section>
  `;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><p class="empty-title">${title}</p><p>${children}</p></div>`;
}

/** An amount, exact to the grain; the zeros that say nothing are quieter, never dropped. */
export function Tokens({ grains }) {
  if (grains === null || grains === undefined) return html`<span class="amount">–</span>`;
  const text = tokens(grains);
  const end = /^0\.0+$/.test(text) ? 0 : text.search(/\.?0*$/);
  return html`<span class="amount" data-grains=${grains} title="${text} tokens = ${grains} grains"
    >${text.slice(0, end)}<span class="quiet">${text.slice(end)}</span></span>`;
}

export function Id({ value }) {
  return html`<code class="id" title=${value}>${value ? value.slice(0, 8) : "–"}</code>`;
}
