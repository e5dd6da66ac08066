// The devices: what they are, whether they are there, what they did and what it earned them.

import { html, useState } from "../vendor/preact-htm.js";
import { count, milli, words } from "../format.js";
import { showMoreDevices } from "../live.js";
import { Empty, Id, Panel, Tokens } from "./panel.js";

const PRESENCE = { online: ["good", 0], degraded: ["warn", 1], offline: ["bad", 2] };
const UNKNOWN_PRESENCE = ["wait", 3];
const ACTIVE = "active";

const COLUMNS = [
  { key: "id", label: "Device", of: (row) => row.deviceId },
  { key: "type", label: "Type", of: (row) => row.deviceType },
  { key: "region", label: "Region", of: (row) => row.region },
  { key: "presence", label: "Presence", of: (row) => (row.status === ACTIVE ? 0 : 10) + presenceOf(row)[1] },
  { key: "score", label: "Compute", numeric: true, of: (row) => row.computeScore ?? -1 },
  { key: "rounds", label: "Rewards", numeric: true, of: (row) => row.claims ?? -1 },
  { key: "paid", label: "Paid (tokens)", numeric: true, of: (row) => BigInt(row.paidGrains ?? -1) },
  { key: "pending", label: "Pending", numeric: true, of: (row) => BigInt(row.pendingGrains ?? -1) },
];

function presenceOf(row) {
  return PRESENCE[(row.presence ?? "").toLowerCase()] ?? UNKNOWN_PRESENCE;
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

function sorted(rows, order) {
  const { of } = COLUMNS.find((column) => column.key === order.key);
  const sign = order.descending ? -1 : 1;
  return [...rows].sort((a, b) => sign * compare(of(a), of(b)) || compare(a.deviceId, b.deviceId));
}

function HeadCell({ column, order, onSort }) {
  const active = order.key === column.key;
  const direction = active ? (order.descending ? "descending" : "ascending") : undefined;
  return html`<th scope="col" class=${column.numeric ? "number" : ""} aria-sort=${direction}>
    <button type="button" class="sort ${active ? direction : ""}" onClick=${() => onSort(column)}>${column.label}</button>
  </th>`;
}

function DeviceRow({ row }) {
  const out = row.status !== ACTIVE;
  const tone = row.status === "suspended" ? "bad" : out ? "wait" : presenceOf(row)[0];
  const presence = (row.presence ?? "unknown").toLowerCase();
  return html`<tr data-device=${row.deviceId}>
    <th scope="row"><${Id} value=${row.deviceId} /></th>
    <td>${words(row.deviceType)}</td>
    <td>${row.region ?? "–"}</td>
    <td class="presence" title=${out ? row.statusReason : ""}><span class="dot ${tone}" aria-hidden="true"></span>${out ? `${row.status}, ${presence}` : presence}</td>
    <td class="number">${milli(row.computeScore)}</td>
    <td class="number">${count(row.claims)}</td>
    <td class="number"><${Tokens} grains=${row.paidGrains} /></td>
    <td class="number"><${Tokens} grains=${row.pendingGrains} /></td>
  </tr>`;
}

const NOTHING = { claims: 0, paidGrains: "0", pendingGrains: "0" };

/** Each device with what it earned; until the payouts are read, that is unknown and not zero. */
function rowsOf({ devices, payouts }) {
  return devices.map((device) => ({ ...device, ...(payouts && (payouts.get(device.deviceId) ?? NOTHING)) }));
}

function summary(rows, total) {
  if (rows.length < total) return `${count(rows.length)} of ${count(total)} shown`;
  const online = rows.filter((row) => presenceOf(row)[0] === "good").length;
  const out = ["suspended", "retired"].map((status) => [rows.filter((row) => row.status === status).length, status]);
  return [[online, `of ${count(total)} online`], ...out.filter(([number]) => number > 0)]
    .map(([number, what]) => `${count(number)} ${what}`).join(", ");
}

export function DevicesPanel({ state }) {
  const [order, setOrder] = useState({ key: "id", descending: false });
  const onSort = (column) => setOrder((last) => ({
    key: column.key,
    descending: last.key === column.key ? !last.descending : Boolean(column.numeric),
  }));
  const rows = state.devices === null ? null : sorted(rowsOf(state), order);
  return html`
    <${Panel} id="devices-title" title="Devices" className="devices" error=${state.errors.devices}
      aside=${rows && html`<span data-testid="device-summary">${summary(rows, state.devicesTotal)}</span>`}>
      ${rows === null
        ? html`<p class="loading">Reading…</p>`
        : rows.length === 0
          ? html`<${Empty} title="No device has enrolled">
              <span>Issue a claim code and run <code>village device run</code> on the device.</span><//>`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Devices, scrollable">
              <table data-testid="devices">
                <thead><tr>${COLUMNS.map((column) => html`<${HeadCell} key=${column.key} column=${column} order=${order} onSort=${onSort} />`)}</tr></thead>
                <tbody>${rows.map((row) => html`<${DeviceRow} key=${row.deviceId} row=${row} />`)}</tbody>
              </table>
              ${rows.length < state.devicesTotal
                ? html`<button type="button" class="more" onClick=${showMoreDevices}>Show more devices</button>`
                : null}
            </div>`}
    <//>
  `;
}
