// The page's one state: replaced by patches, told to its listeners at most ten times a second.

import { useEffect, useState } from "./vendor/preact-htm.js";

const NOTIFY_MS = 100;

function createStore(initial) {
  let state = initial;
  let queued = false;
  const listeners = new Set();
  return {
    get: () => state,
    update(patch) {
      state = { ...state, ...(typeof patch === "function" ? patch(state) : patch) };
      if (queued) return;
      queued = true;
      setTimeout(() => {
        queued = false;
        for (const listener of listeners) listener(state);
      }, NOTIFY_MS);
    },
    listen(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

export const store = createStore({
  auth: "checking", // checking | signed_in | signed_out
  link: { state: "connecting", attempt: 0 }, // connecting | live | reconnecting | stopped
  feed: "open", // open | refused (it is the operators') | failed
  now: Date.now(),
  clockOffsetMs: 0,
  version: null,
  position: 0,
  lag: 0,
  rates: [],
  sessions: null,
  sessionId: null,
  pinned: false, // the reader chose the session; a newer one does not take its place
  rounds: null,
  told: new Map(), // roundId -> newest message of the round feed
  devices: null,
  devicesTotal: null,
  devicePages: 1,
  payouts: null, // Map of deviceId -> what it earned
  harvest: null,
  contracts: null,
  burstOf: new Map(), // contract -> the burst it is part of
  transfers: null,
  walletOwners: new Map(), // wallet -> its owner, or null when it is not for us to know
  supply: null,
  events: [],
  errors: {},
});

export function useStore() {
  const [state, setState] = useState(store.get());
  useEffect(() => store.listen(setState), []);
  return state;
}
