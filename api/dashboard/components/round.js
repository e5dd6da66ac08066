// The live round: which one, in what state, how many updates are in, how long it may still take.

import { html } from "../vendor/preact-htm.js";
import { clock, count, countdown, duration, words } from "../format.js";
import { selectSession } from "../live.js";
import { COMPLETED, labelOf, rankOf, STEPS } from "../rounds.js";
import { Empty, Id, Panel } from "./panel.js";

const ENDED = new Set(["completed", "abandoned"]);

function SessionPicker({ sessions, sessionId }) {
  if (!sessions || sessions.length < 2) return null;
  return html`<label class="picker">
    <span class="hidden">Training session</span>
    <select value=${sessionId} onChange=${(change) => selectSession(change.target.value)}>
      ${sessions.map((session) => html`<option key=${session.sessionId} value=${session.sessionId}
        selected=${session.sessionId === sessionId}>${session.name} · ${session.sessionId.slice(0, 8)}</option>`)}
    </select>
  </label>`;
}

function stepClass(rank, index) {
  if (rank > COMPLETED) return ""; // abandoned: no step is the current one
  return rank > index ? "done" : rank === index ? "now" : "";
}

function Steps({ round }) {
  const rank = rankOf(round.state);
  return html`<ol class="steps" aria-label="Steps of the round">
    ${STEPS.map((step, index) => html`<li key=${step} class=${stepClass(rank, index)}
      aria-current=${rank === index ? "step" : undefined}>${step}</li>`)}
  </ol>`;
}

function Figure({ label, value, testid }) {
  return html`<div><dt>${label}</dt><dd data-testid=${testid}>${value}</dd></div>`;
}

function timeLine(round, nowMs) {
  if (rankOf(round.state) > COMPLETED) return html`Ended without a model${round.reason ? `: ${words(round.reason)}` : ""}; the next round tries again`;
  if (round.completedAt || rankOf(round.state) >= COMPLETED) {
    return html`Took <b>${duration(round.durationMs)}</b>${round.completedAt ? `, ended ${clock(round.completedAt)}` : ""}`;
  }
  if (!round.deadlineAt) return html`No deadline yet`;
  const left = Date.parse(round.deadlineAt) - nowMs;
  if (left <= 0) return html`Deadline passed at ${clock(round.deadlineAt)}`;
  return html`<b>${countdown(left)}</b> left until the deadline ${clock(round.deadlineAt)}`;
}

function Live({ session, round, nowMs }) {
  const selected = round.selected ?? 0;
  const accepted = round.accepted ?? 0;
  // Numbers of lost rounds are not used again, so a long session can count beyond its rounds.
  const of = round.number <= session.rounds ? `of ${session.rounds}` : "";
  return html`
    <div class="round-title">
      <p class="round-number">Round <b data-testid="round-number">${round.number}</b> <span>${of}</span></p>
      <p class="chip rank-${rankOf(round.state)}" data-testid="round-state">${labelOf(round)}</p>
    </div>
    <p class="hidden" role="status" aria-live="polite">Round ${round.number} ${of}: ${labelOf(round)}</p>
    <div class="bar">
      <label for="round-progress"><b data-testid="accepted">${accepted}</b> of ${selected} selected devices sent an update</label>
      <progress id="round-progress" max=${Math.max(1, selected)} value=${accepted}></progress>
    </div>
    <p class="time" data-testid="deadline">${timeLine(round, nowMs)}</p>
    <${Steps} round=${round} />
    <dl class="figures">
      <${Figure} label="Selected" value=${count(selected)} />
      <${Figure} label="Accepted" value=${count(accepted)} />
      <${Figure} label="Participants" value=${count(rankOf(round.state) === COMPLETED ? round.participants : null)} testid="participants" />
      <${Figure} label="Rejected" value=${count(round.rejected)} />
      <${Figure} label="Dropped" value=${count(round.dropped)} />
    </dl>
  `;
}

function SessionLine({ session, rounds }) {
  const done = (rounds ?? []).filter((round) => rankOf(round.state) === COMPLETED).length;
  return html`
    <div class="session">
      <div class="bar">
        <label for="session-progress"><b>${session.name}</b> · ${words(session.state).toLowerCase()} · ${session.strategy}${" "}
          <${Id} value=${session.sessionId} /><span class="right"><b data-testid="rounds-done">${done}</b> of ${session.rounds} rounds</span></label>
        <progress id="session-progress" class="thin" max=${session.rounds} value=${done}></progress>
      </div>
    </div>
  `;
}

export function RoundPanel({ state, rounds }) {
  const session = (state.sessions ?? []).find((one) => one.sessionId === state.sessionId);
  const round = rounds && rounds.length ? rounds[rounds.length - 1] : null;
  const picker = html`<${SessionPicker} sessions=${state.sessions} sessionId=${state.sessionId} />`;
  return html`
    <${Panel} id="round-title" title=${session && ENDED.has(session.state) ? "Last round" : "Live round"} aside=${picker} className="round" error=${state.errors.sessions}>
      ${state.sessions === null
        ? html`<p class="loading">Reading…</p>`
        : !session
          ? html`<${Empty} title="No training session yet">
              <span>Start one with <code>village demo</code>, or by <code>POST /v1/federated_learning/start_training</code>.</span><//>`
          : html`
            ${round
              ? html`<${Live} session=${session} round=${round} nowMs=${state.now + state.clockOffsetMs} />`
              : html`<${Empty} title="Waiting for the first round">It opens when enough devices are online.<//>`}
            <${SessionLine} session=${session} rounds=${rounds} />`}
    <//>
  `;
}
