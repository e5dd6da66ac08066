// The newest facts of the log as they are recorded.

import { html } from "../vendor/preact-htm.js";
import { clock, count, shortId } from "../format.js";
import { Empty, Panel } from "./panel.js";

function Event({ event }) {
  const [, aggregate, name] = event.topic.split(".");
  return html`<li title=${event.topic}>
    <span class="position">${count(event.position)}</span>
    <span class="what"><b>${name}</b> <span>${aggregate} ${shortId(event.stream)}</span></span>
    <time datetime=${event.recordedAt}>${clock(event.recordedAt)}</time>
  </li>`;
}

export function EventsPanel({ state }) {
  const body = state.feed === "refused"
    ? html`<${Empty} title="The event feed is for operators">You are signed in as a member. The rest of the page is read every few seconds.<//>`
    : state.events.length === 0
      ? html`<${Empty} title="No events yet">Every fact the village records shows up here at once.<//>`
      : html`<div class="scroll" tabindex="0" role="group" aria-label="Events, scrollable">
          <ol class="rows events" data-testid="events">
            ${state.events.map((event) => html`<${Event} key=${event.position} event=${event} />`)}
          </ol>
        </div>`;
  return html`<${Panel} id="events-title" title="Event log" className="ticker" error=${state.errors.events}
    aside=${html`<span>newest first</span>`}>${body}<//>`;
}
