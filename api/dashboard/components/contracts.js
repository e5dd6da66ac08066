// Contracts of the market: what was agreed, what was credited for a broken promise, what was paid.

import { html } from "../vendor/preact-htm.js";
import { duration, words } from "../format.js";
import { Empty, Id, Panel, Tokens } from "./panel.js";

const TONES = { active: "good", completed: "good", breached: "bad", expired: "bad", cancelled: "warn" };

/** Settled contracts by how they ended; one that was credited broke its promise, however it ended. */
function stateOf({ state, outcome, creditGrains }) {
  const credited = BigInt(creditGrains) > 0n;
  const label = [words(state), state === "settled" && words(outcome), credited && "credited"].filter(Boolean).join(", ");
  return { label, tone: credited ? "warn" : TONES[state === "settled" ? outcome : state] ?? "wait" };
}

function Contract({ contract, burstId }) {
  const { label, tone } = stateOf(contract);
  return html`<li data-contract=${contract.contractId}>
    <p><${Id} value=${contract.contractId} />
      <span class="state" title=${words(contract.reason)}><span class="dot ${tone}" aria-hidden="true"></span>${label}</span>
      <span class="right" title="charged"><${Tokens} grains=${contract.chargedGrains} /></span></p>
    <p class="fine"><span class="why">${burstId ? html`burst <${Id} value=${burstId} />, ` : ""}used ${duration(contract.usedMs)} of ${duration(contract.durationMs)}</span>
      <span class="right">price <${Tokens} grains=${contract.agreedPrice} /> · credit <${Tokens} grains=${contract.creditGrains} /></span></p>
  </li>`;
}

export function ContractsPanel({ state }) {
  const { contracts, burstOf } = state;
  return html`
    <${Panel} id="contracts-title" title="Contracts" className="contracts" error=${state.errors.contracts}
      aside=${html`<span>tokens charged</span>`}>
      ${contracts === null
        ? html`<p class="loading">Reading…</p>`
        : contracts.length === 0
          ? html`<${Empty} title="Nobody has bought anything">Contracts appear here when a customer proposes one.<//>`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Contracts, scrollable">
              <ul class="cards" data-testid="contracts">
                ${contracts.map((contract) => html`<${Contract} key=${contract.contractId} contract=${contract}
                  burstId=${burstOf.get(contract.contractId)} />`)}
              </ul>
            </div>`}
    <//>
  `;
}
