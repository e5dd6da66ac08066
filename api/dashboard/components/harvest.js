// Devices that lend themselves: whether they may right now, why not, how warm they are, and what their time earned.

import { html } from "../vendor/preact-htm.js";
import { count, duration, words } from "../format.js";
import { Empty, Id, Panel, Tokens } from "./panel.js";

const TONES = { running: "good", throttled: "warn", paused: "bad", rejected: "bad", rewarded: "good" };
const TELLING = new Set(["throttled", "paused", "rejected"]);
const OVER = new Set(["closed", "rewarded", "rejected"]);

/** The hottest sensor counts: a policy has a band for each. */
function measured({ latest }) {
  if (!latest) return "nothing measured yet";
  const { batteryPercent, batteryTemp, skinTemp, cpuTemp, cpuPercent } = latest;
  const heat = [batteryTemp, skinTemp, cpuTemp].filter((value) => value !== null);
  return [
    batteryPercent !== null && `battery ${Math.round(batteryPercent)} %`,
    heat.length > 0 && `${Math.round(Math.max(...heat))} \u00b0C`,
    cpuPercent !== null && `cpu ${Math.round(cpuPercent)} %`,
  ].filter(Boolean).join(" · ");
}

function Session({ session }) {
  const limits = session.trips === 1 ? "1 limit met" : `${session.trips ? count(session.trips) : "no"} limits met`;
  const why = TELLING.has(session.state) ? session.reason.text : OVER.has(session.state) ? limits : "";
  return html`<li data-session=${session.sessionId}>
    <p><${Id} value=${session.deviceId} />
      <span class="state"><span class="dot ${TONES[session.state] ?? "wait"}" aria-hidden="true"></span>${words(session.state)}</span>
      <span class="right"><${Tokens} grains=${session.earnedGrains} /></span></p>
    <p class="fine"><span class="why" title=${why}>${[why, OVER.has(session.state) ? "" : measured(session)].filter(Boolean).join(" · ")}</span>
      <span class="right">${duration(session.verifiedMs)} verified</span></p>
  </li>`;
}

export function HarvestPanel({ state }) {
  const { harvest } = state;
  return html`
    <${Panel} id="harvest-title" title="Harvest" className="harvest" error=${state.errors.harvest}
      aside=${html`<span>tokens</span>`}>
      ${harvest === null
        ? html`<p class="loading">Reading…</p>`
        : harvest.length === 0
          ? html`<${Empty} title="No device lends itself"><span>Run one with <code>village device run --harvest</code>.</span><//>`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Harvest sessions, scrollable">
              <ul class="cards" data-testid="harvest">
                ${harvest.map((session) => html`<${Session} key=${session.sessionId} session=${session} />`)}
              </ul>
            </div>`}
    <//>
  `;
}
