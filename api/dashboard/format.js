// Turns values of the API into text. Token amounts are BigInt from end to end: no float ever touches money.

const GRAINS_PER_TOKEN = 100_000_000n;
const MINUS = "\u2212";

/** Every grain of an amount, as tokens: "1234500000000" -> "12,345.00000000". */
export function tokens(grains) {
  const value = BigInt(grains);
  const size = value < 0n ? -value : value;
  const whole = (size / GRAINS_PER_TOKEN).toString().replace(/\B(?=(\d{3})+$)/g, ",");
  const decimals = (size % GRAINS_PER_TOKEN).toString().padStart(8, "0");
  return `${value < 0n ? MINUS : ""}${whole}.${decimals}`;
}

/** The same without trailing zeros, for sums that are usually round: "1,000,000,000". */
export function roundTokens(grains) {
  return tokens(grains).replace(/\.?0+$/, "");
}

export function count(value) {
  return value === null || value === undefined ? "\u2013" : Number(value).toLocaleString("en");
}

export function percent(ratio) {
  return ratio === null || ratio === undefined ? "\u2013" : `${(ratio * 100).toFixed(1)} %`;
}

/** compute_score travels in thousandths. */
export function milli(value) {
  return value === null || value === undefined ? "\u2013" : (value / 1000).toFixed(2);
}

export function shortId(id) {
  return id ? id.slice(0, 6) : "\u2013";
}

/** Milliseconds left as "9:05"; hours appear when there are any. */
export function countdown(ms) {
  const total = Math.max(0, Math.ceil(ms / 1000));
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor((total % 3600) / 60);
  const seconds = String(total % 60).padStart(2, "0");
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "\u2013";
  return ms < 1000 ? `${ms} ms` : ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : countdown(ms);
}

export function clock(iso) {
  return iso ? new Date(iso).toLocaleTimeString("en-GB") : "\u2013";
}

/** "federated_learning" -> "federated learning" */
export function words(name) {
  return (name ?? "").replaceAll("_", " ");
}
