// The top bar: whose village this is, whether we are connected, whether the money adds up, how fast the log moves.

import { html } from "../vendor/preact-htm.js";
import { count, roundTokens } from "../format.js";
import { leave, reconnect } from "../live.js";

const RATE_WINDOW = 5;
const SPARK_BARS = 60;
const SPARK_HEIGHT = 16;

const LINKS = {
  connecting: ["wait", "Connecting"],
  live: ["good", "Live"],
  reconnecting: ["warn", "Reconnecting"],
  stopped: ["bad", "Disconnected"],
};

function Mark() {
  return html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
    <rect width="32" height="32" rx="7" />
    <path d="M10.500 11.500 16 6l5.500 5.500M12 10.200V15h8v-4.800M4 22.500l5-5 5 5M5.500 21.200V26h7v-4.800M18 22.500l5-5 5 5M19.500 21.200V26h7v-4.800" />
  </svg>`;
}

function Supply({ supply }) {
  const known = supply !== null;
  const label = !known ? "Supply unknown" : supply.conserved ? "Supply conserved" : "Supply drifts";
  const tone = !known ? "wait" : supply.conserved ? "good" : "bad";
  const detail = !known ? "–" : supply.conserved ? `${roundTokens(supply.totalGrains)} tokens` : `${roundTokens(supply.driftGrains)} off`;
  return html`<div class="stat" data-testid="supply">
    <dt>${label}</dt>
    <dd><span class="dot ${tone}" aria-hidden="true"></span>${detail}</dd>
  </div>`;
}

function Spark({ rates }) {
  const top = Math.max(1, ...rates);
  const start = SPARK_BARS - rates.length;
  return html`<svg class="spark" viewBox="0 0 ${SPARK_BARS * 2} ${SPARK_HEIGHT}" aria-hidden="true">
    ${rates.map((rate, index) => {
      const height = Math.max(1, Math.round((rate / top) * SPARK_HEIGHT));
      return html`<rect key=${index} x=${(start + index) * 2} y=${SPARK_HEIGHT - height} width="1.4" height=${height} />`;
    })}
  </svg>`;
}

function rateOf(rates) {
  const last = rates.slice(-RATE_WINDOW);
  if (last.length === 0) return "0";
  const mean = last.reduce((sum, rate) => sum + rate, 0) / last.length;
  return mean >= 10 ? count(Math.round(mean)) : mean.toFixed(1);
}

export function Header({ state }) {
  const [tone, label] = LINKS[state.link.state];
  return html`
    <header class="top">
      <div class="brand">
        <${Mark} />
        <h1>AI Village</h1>
        <span class="host">${location.host}${state.version?.version ? ` · ${state.version.version}` : ""}</span>
      </div>
      <dl class="stats" aria-label="Village state">
        <div class="stat" data-testid="link">
          <dt>Connection</dt>
          <dd><span role="status"><span class="dot ${tone}" aria-hidden="true"></span>${label}</span></dd>
        </div>
        <${Supply} supply=${state.supply} />
        <div class="stat" data-testid="position">
          <dt>Log position</dt>
          <dd>${count(state.position)}</dd>
        </div>
        <div class="stat wide" data-testid="rate">
          <dt>Events / s</dt>
          <dd><span class="rate">${rateOf(state.rates)}</span><${Spark} rates=${state.rates} /></dd>
        </div>
      </dl>
      <button type="button" class="quiet-button" onClick=${leave}>Sign out</button>
    </header>
  `;
}

export function LinkBanner({ state }) {
  if (state.link.state === "stopped") {
    return html`<div class="banner bad" role="alert">
      <strong>Disconnected.</strong> The village did not answer for a long time. What you see may be old.
      <button type="button" onClick=${reconnect}>Connect again</button>
    </div>`;
  }
  if (state.link.state !== "reconnecting") return null;
  return html`<div class="banner warn" role="alert">
    <strong>Reconnecting.</strong> The API does not answer. What you see is the last known state; it resumes from position
    ${" "}${count(state.position)} without gaps.
  </div>`;
}
