// What the page knows of a round: its row in the read model, joined with what the feed told. Both say at which position
// of the log they are true, so the newer wins and the order of their arrival does not matter.

export const STEPS = ["Collecting", "Aggregating", "Completed"];
export const COMPLETED = 2;

const RANKS = { open: 0, sealed: 1, completed: COMPLETED, abandoned: 3 };
const LABELS = ["Collecting updates", "Aggregating", "Completed", "Abandoned"];

export function rankOf(state) {
  return RANKS[state] ?? 0;
}

export function labelOf(round) {
  if (rankOf(round.state) === 0 && !round.selected) return "Selecting participants";
  return LABELS[rankOf(round.state)];
}

function mergeRound(row, told) {
  if (!told) return row;
  return told.position > row.position ? { ...row, ...told } : { ...told, ...row };
}

/** All rounds of the session by number; `rows` from the query (or null), `told` a Map of roundId -> newest message. */
export function joinRounds(rows, told) {
  const joined = new Map(told);
  for (const row of rows ?? []) joined.set(row.roundId, mergeRound(row, told.get(row.roundId)));
  return [...joined.values()].sort((a, b) => a.number - b.number);
}

/** Rounds that have a measured accuracy: the points of the curve. */
export function measured(rounds) {
  return rounds.filter((round) => round.accuracy !== null && round.accuracy !== undefined);
}
