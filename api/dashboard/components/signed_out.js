// What a reader without a session sees: how to get in, and nothing else.

import { html } from "../vendor/preact-htm.js";

export function SignedOut() {
  const failed = new URLSearchParams(location.search).has("login");
  return html`
    <main class="door" id="main">
      <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
        <rect width="32" height="32" rx="7" />
        <path d="M10.500 11.500 16 6l5.500 5.500M12 10.200V15h8v-4.800M4 22.500l5-5 5 5M5.500 21.200V26h7v-4.800M18 22.500l5-5 5 5M19.500 21.200V26h7v-4.800" />
      </svg>
      <h1>You are not signed in</h1>
      ${failed ? html`<p class="panel-error" role="alert">That login link was used before or has expired. Ask for a new one.</p>` : null}
      <p>This village is closed by default: nothing about its devices, rounds or tokens is shown until you open a login link.</p>
      <ol>
        <li>
          <h2>Look where the village was started</h2>
          <p><code>village up</code> and <code>village demo</code> print a login link. Open it in this browser.</p>
        </li>
        <li>
          <h2>Or ask for a new link</h2>
          <p>On the machine that runs the village:</p>
          <pre><code>village token login</code></pre>
        </li>
      </ol>
      <p class="small">A link works once and only for a short time. It leaves a session cookie that scripts cannot read.</p>
    </main>
  `;
}
