// Contracts of the market: what was agreed, what was credited for a broken promise, what was paid.

import { html } from "../vendor/preact-htm.js";
import { duration, words } from "../format.js";
import { Empty, Id, Panel, Tokens } from "./panel.js";

const TONES = { active: "good", completed: "good", settled: "good", breached: "bad", expired: "bad", cancelled: "warn" };

function Contract({ contract }) {
  const outcome = contract.state === "settled" && contract.outcome ? `settled, ${words(contract.outcome)}` : words(contract.state);
  const tone = (contract.state === "settled" ? TONES[contract.outcome] : TONES[contract.state]) ?? "wait";
  return html`<tr data-contract=${contract.contractId}>
    <th scope="row"><${Id} value=${contract.contractId} /></th>
    <td title=${words(contract.reason)}><span class="dot ${tone}" aria-hidden="true"></span>${outcome}</td>
    <td class="number">${duration(contract.usedMs)}</td>
    <td class="number"><${Tokens} grains=${contract.agreedPrice} /></td>
    <td class="number"><${Tokens} grains=${contract.creditGrains} /></td>
    <td class="number"><${Tokens} grains=${contract.chargedGrains} /></td>
  </tr>`;
}

export function ContractsPanel({ state }) {
  const { contracts } = state;
  return html`
    <${Panel} id="contracts-title" title="Contracts" className="contracts sheet" error=${state.errors.contracts}
      aside=${html`<span>tokens</span>`}>
      ${contracts === null
        ? html`<p class="loading">Reading…</p>`
        : contracts.length === 0
          ? html`<${Empty} title="Nobody has bought anything">Contracts appear here when a customer proposes one.<//>`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Contracts, scrollable">
              <table data-testid="contracts">
                <thead><tr>
                  <th scope="col">Contract</th><th scope="col">State</th><th scope="col" class="number">Used</th>
                  <th scope="col" class="number">Price</th><th scope="col" class="number">Credit</th>
                  <th scope="col" class="number">Charged</th>
                </tr></thead>
                <tbody>${contracts.map((contract) => html`<${Contract} key=${contract.contractId} contract=${contract} />`)}</tbody>
              </table>
            </div>`}
    <//>
  `;
}
