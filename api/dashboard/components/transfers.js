// Recent movements of the ledger, newest first; a line opens to show its legs, exact to the grain.

import { html } from "../vendor/preact-htm.js";
import { clock, count, words } from "../format.js";
import { Empty, Id, Panel, Tokens } from "./panel.js";

function accountName({ account, name }, walletOwners, devicesByOwner) {
  if (name) return name;
  const owner = walletOwners.get(account);
  if (!owner) return html`wallet <${Id} value=${account} />`;
  const devices = devicesByOwner.get(owner) ?? [];
  return devices.length === 1 ? html`device <${Id} value=${devices[0]} />` : html`owner <${Id} value=${owner} />`;
}

function Transfer({ transfer, walletOwners, devicesByOwner }) {
  const receivers = transfer.legs.filter((leg) => BigInt(leg.grains) > 0n).length;
  const outcome = transfer.state === "rejected" ? "rejected" : receivers > 1 ? `${count(receivers)} accounts` : "";
  return html`<li data-transfer=${transfer.transferId}>
    <details>
      <summary>
        <time datetime=${transfer.postedAt}>${clock(transfer.postedAt)}</time>
        <span class="kind">${words(transfer.kind)}</span>
        <span class="to">${outcome}</span>
        <${Tokens} grains=${transfer.movedGrains} />
      </summary>
      <ul class="legs">
        ${transfer.legs.map((leg) => html`<li key=${leg.account}>
          <span>${accountName(leg, walletOwners, devicesByOwner)}</span><${Tokens} grains=${leg.grains} />
        </li>`)}
      </ul>
    </details>
  </li>`;
}

function ownersOf(devices) {
  const byOwner = new Map();
  for (const device of devices ?? []) {
    byOwner.set(device.ownerId, [...(byOwner.get(device.ownerId) ?? []), device.deviceId]);
  }
  return byOwner;
}

export function TransfersPanel({ state }) {
  const { transfers, walletOwners } = state;
  const devicesByOwner = ownersOf(state.devices);
  return html`
    <${Panel} id="transfers-title" title="Payouts and transfers" className="transfers" error=${state.errors.ledger}
      aside=${html`<span>tokens</span>`}>
      ${transfers === null
        ? html`<p class="loading">Reading…</p>`
        : transfers.length === 0
          ? html`<${Empty} title="Nothing has moved yet">Payouts appear here when a round is completed and rewarded.<//>`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Transfers, scrollable">
              <ul class="rows" data-testid="transfers">
                ${transfers.map((transfer) => html`<${Transfer} key=${transfer.transferId} transfer=${transfer}
                  walletOwners=${walletOwners} devicesByOwner=${devicesByOwner} />`)}
              </ul>
            </div>`}
    <//>
  `;
}
