// Devices that lend themselves: whether they may right now, why not, and what their time earned.

import { html } from "../vendor/preact-htm.js";
import { count, duration, words } from "../format.js";
import { Empty, Id, Panel, Tokens } from "./panel.js";

const TONES = { running: "good", throttled: "warn", paused: "bad", rejected: "bad", admitted: "wait" };
const SHOWN = new Set(["throttled", "paused", "stopping", "closed", "rejected"]);

function Session({ session }) {
  return html`<tr data-session=${session.sessionId}>
    <th scope="row"><${Id} value=${session.deviceId} /></th>
    <td><span class="dot ${TONES[session.state] ?? "wait"}" aria-hidden="true"></span>${words(session.state)}</td>
    <td class="why" title=${session.reason.text}>${SHOWN.has(session.state) ? session.reason.text : ""}</td>
    <td class="number">${count(session.trips)}</td>
    <td class="number">${duration(session.verifiedMs)}</td>
    <td class="number"><${Tokens} grains=${session.earnedGrains} /></td>
  </tr>`;
}

export function HarvestPanel({ state }) {
  const { harvest } = state;
  return html`
    <${Panel} id="harvest-title" title="Harvest" className="harvest sheet" error=${state.errors.harvest}
      aside=${html`<span>newest first</span>`}>
      ${harvest === null
        ? html`<p class="loading">Reading…</p>`
        : harvest.length === 0
          ? html`<${Empty} title="No device lends itself"><span>Run one with <code>village device run --harvest</code>.</span><//>`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Harvest sessions, scrollable">
              <table data-testid="harvest">
                <thead><tr>
                  <th scope="col">Device</th><th scope="col">State</th><th scope="col">Why</th>
                  <th scope="col" class="number">Trips</th><th scope="col" class="number">Verified</th>
                  <th scope="col" class="number">Earned (tokens)</th>
                </tr></thead>
                <tbody>${harvest.map((session) => html`<${Session} key=${session.sessionId} session=${session} />`)}</tbody>
              </table>
            </div>`}
    <//>
  `;
}
