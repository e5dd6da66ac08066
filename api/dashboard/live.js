// Keeps the store true: loads every section, follows the feeds, reloads a section when an event touched it.

import { openFeeds, query, queryPages } from "./client.js";
import * as documents from "./documents.js";
import { store } from "./store.js";

const PAGE = 100;
const MOST_PAGES = 10;
const TRANSFERS_SHOWN = 40;
const SESSIONS_SHOWN = 20; // of harvest, each with its newest sample
const CONTRACTS_SHOWN = 40;
const EVENTS_SHOWN = 60;
const BACKLOG = 40; // events shown from before the page was opened
const RATE_SECONDS = 60;
const REFRESH_MS = 800;
const REFRESH_WHILE_AWAY_MS = 4_000;
const POLL_MS = 15_000; // safety net behind the feed
const POLL_WITHOUT_FEED_MS = 3_000;
const SAMPLES_MS = 5_000; // samples are no events
const CLOCK_TOLERANCE_MS = 2_000;
const CATCH_UP_TRIES = 12; // reloads while the projections lag behind an event we saw

const SECTIONS = {
  sessions: loadSessions,
  rounds: loadRounds,
  devices: loadDevices,
  ledger: loadLedger,
  harvest: loadHarvest,
  contracts: loadContracts,
};

/** What an event makes stale, by its aggregate. Updates of a round are told by the feed of rounds. */
const STALE = {
  "device_registry.Device": "devices",
  "federated_learning.TrainingSession": "sessions",
  "federated_learning.TrainingRound": "rounds",
  "harvest.HarvestSession": "harvest",
  "marketplace.Contract": "contracts",
  "tokenomics.RewardClaim": "ledger",
  "tokenomics.Transfer": "ledger",
};
const TOLD = "federated_learning.TrainingRound.UpdateAccepted";

const dirty = new Map(); // section -> {position to reach, tries left}
let feeds = null;
let stopRoundFeed = () => {};
let refreshing = false;
let lastRefresh = 0;
let lastPoll = 0;
let lastSamples = 0;
let backlogEnd = 0;
let clockAhead = -Infinity;
let second = { at: 0, events: 0 };

const ACTIVE = new Set(["running", "started", "created", "paused"]);
const MEASURED = new Set(["running", "throttled", "paused"]);

async function loadSessions() {
  const { trainingSessions } = await query(documents.SESSIONS, { first: PAGE });
  const sessions = trainingSessions.edges
    .map((edge) => edge.node)
    .sort((a, b) => b.createdAt.localeCompare(a.createdAt));
  store.update({ sessions });
  const { sessionId, pinned } = store.get();
  const known = sessions.some((session) => session.sessionId === sessionId);
  if (pinned && known) return;
  const best = sessions.find((session) => ACTIVE.has(session.state.toLowerCase())) ?? sessions[0];
  if (best && best.sessionId !== sessionId) selectSession(best.sessionId, false);
}

async function loadRounds() {
  const { sessionId } = store.get();
  if (!sessionId) return;
  const { nodes } = await queryPages(documents.ROUNDS, "rounds", { sessionId, first: PAGE }, MOST_PAGES);
  if (store.get().sessionId !== sessionId) return;
  store.update({ rounds: nodes });
}

async function loadDevices() {
  const { nodes, totalCount } = await queryPages(documents.DEVICES, "devices", { first: PAGE }, store.get().devicePages);
  store.update({ devices: nodes, devicesTotal: totalCount ?? nodes.length });
}

async function loadLedger() {
  const [found, { supply }, payouts] = await Promise.all([
    query(documents.TRANSFERS, { first: TRANSFERS_SHOWN }),
    query(documents.SUPPLY),
    queryPages(documents.PAYOUTS, "devicePayouts", { first: PAGE }, MOST_PAGES),
  ]);
  const transfers = found.transfers.edges.map((edge) => edge.node);
  await loadWallets(transfers);
  store.update({ transfers, supply, payouts: new Map(payouts.nodes.map((node) => [node.deviceId, node])) });
}

async function loadHarvest() {
  const { harvestSessions } = await query(documents.HARVEST, { first: SESSIONS_SHOWN });
  store.update({ harvest: harvestSessions.edges.map((edge) => edge.node) });
}

async function loadContracts() {
  const { contracts, bursts } = await query(documents.CONTRACTS, { first: CONTRACTS_SHOWN });
  const parts = bursts.edges.flatMap(({ node }) => node.nodes.map(({ contractId }) => [contractId, node.burstId]));
  store.update({ contracts: contracts.edges.map((edge) => edge.node), burstOf: new Map(parts) });
}

/** The owners of wallets never change: ask only when a transfer names a wallet not seen before. */
async function loadWallets(transfers) {
  const { walletOwners } = store.get();
  const accounts = transfers.flatMap((transfer) => transfer.legs).filter((leg) => !leg.name).map((leg) => leg.account);
  if (accounts.every((account) => walletOwners.has(account))) return;
  const { nodes } = await queryPages(documents.WALLETS, "wallets", { first: PAGE }, MOST_PAGES);
  const strangers = accounts.map((account) => [account, null]); // beyond the pages: known to be unknown
  store.update({ walletOwners: new Map([...strangers, ...nodes.map((wallet) => [wallet.walletId, wallet.ownerId])]) });
}

/** Read how far the read models are; answers the position that all of them have reached. */
async function loadProjections() {
  const { projections } = await query(documents.PROJECTIONS);
  const head = Math.max(0, ...projections.map((projection) => projection.head));
  const reached = projections.length ? Math.min(...projections.map((projection) => projection.position)) : 0;
  store.update((state) => ({
    position: Math.max(state.position, head),
    lag: Math.max(0, ...projections.map((projection) => projection.lag)),
  }));
  return { head, reached };
}

function mark(sections, position) {
  for (const section of sections) dirty.set(section, { position, tries: CATCH_UP_TRIES });
}

function fail(section, error) {
  if (error.kind === "signed_out") return signOut();
  store.update((state) => ({ errors: { ...state.errors, [section]: error.message } }));
}

function clear(section) {
  if (store.get().errors[section]) store.update((state) => ({ errors: { ...state.errors, [section]: undefined } }));
}

async function refresh() {
  const { auth, link } = store.get();
  if (refreshing || auth !== "signed_in" || dirty.size === 0) return;
  // While the API is away, a look now and then is enough: it tells whether our session outlived the restart.
  if (link.state !== "live" && Date.now() - lastRefresh < REFRESH_WHILE_AWAY_MS) return;
  refreshing = true;
  lastRefresh = Date.now();
  try {
    let reached = Infinity;
    if (store.get().feed === "open") {
      ({ reached } = await loadProjections());
      clear("events");
    }
    for (const [section, wanted] of [...dirty]) await reload(section, wanted, reached);
  } catch (error) {
    // Only what concerns every section comes here: the API is away, our session has ended, or no position is known.
    if (error.kind !== "unreachable") fail("events", error);
  } finally {
    refreshing = false;
  }
}

/** Load one section; it stays dirty until the read models have reached what it waits for, or the API is back. */
async function reload(section, wanted, reached) {
  try {
    await SECTIONS[section]();
    clear(section);
  } catch (error) {
    if (error.kind === "unreachable" || error.kind === "signed_out") throw error;
    fail(section, error);
  }
  if (dirty.get(section) !== wanted) return; // marked again meanwhile
  wanted.tries -= 1;
  if (reached >= wanted.position || wanted.tries <= 0) dirty.delete(section);
}

function tick() {
  const now = Date.now();
  store.update({ now });
  countSecond(now);
  const every = store.get().feed === "open" ? POLL_MS : POLL_WITHOUT_FEED_MS;
  if (now - lastPoll >= every) {
    lastPoll = now;
    mark(Object.keys(SECTIONS), 0);
  }
  if (now - lastSamples >= SAMPLES_MS && store.get().harvest?.some((session) => MEASURED.has(session.state))) {
    lastSamples = now;
    if (!dirty.has("harvest")) mark(["harvest"], 0);
  }
}

function countSecond(now) {
  const at = Math.floor(now / 1000);
  if (at === second.at) return;
  const done = second.events;
  second = { at, events: 0 };
  store.update((state) => ({ rates: [...state.rates, done].slice(-RATE_SECONDS) }));
}

/** The freshest event tells how far the server's clock is ahead; what is less than the tolerance is no difference. */
function setClock(recordedAt) {
  clockAhead = Math.max(clockAhead, Date.parse(recordedAt) - Date.now());
  const clockOffsetMs = Math.abs(clockAhead) > CLOCK_TOLERANCE_MS ? clockAhead : 0;
  if (clockOffsetMs !== store.get().clockOffsetMs) store.update({ clockOffsetMs });
}

function onEvent(event) {
  if (event.position > backlogEnd) {
    second.events += 1;
    setClock(event.recordedAt);
  }
  store.update((state) => ({
    position: Math.max(state.position, event.position),
    events: [event, ...state.events].slice(0, EVENTS_SHOWN),
  }));
  const section = STALE[event.topic.slice(0, event.topic.lastIndexOf("."))];
  if (event.position > backlogEnd && section && event.topic !== TOLD) mark([section], event.position);
}

function onRoundProgress(progress) {
  store.update((state) => ({
    position: Math.max(state.position, progress.position),
    told: new Map(state.told).set(progress.roundId, progress),
  }));
}

function onFeedError(error) {
  if (error.kind === "signed_out") return signOut();
  if (error.kind === "refused") return store.update({ feed: "refused" });
  store.update({ feed: "failed" });
  fail("events", error);
}

export function selectSession(sessionId, pinned = true) {
  store.update({ sessionId, pinned, rounds: null, told: new Map() });
  followRounds();
  mark(["rounds"], 0);
  refresh();
}

function followRounds() {
  stopRoundFeed();
  const { sessionId, position } = store.get();
  if (!sessionId || !feeds) return;
  stopRoundFeed = feeds.subscribe(
    documents.ROUND_PROGRESS,
    { sessionId, after: position },
    { onNext: onRoundProgress, onError: (error) => fail("rounds", error) },
  );
}

export function showMoreDevices() {
  store.update((state) => ({ devicePages: Math.min(MOST_PAGES, state.devicePages + 1) }));
  mark(["devices"], 0);
  refresh();
}

function signOut() {
  feeds?.close();
  feeds = null;
  dirty.clear();
  store.update({
    auth: "signed_out", sessions: null, sessionId: null, rounds: null, told: new Map(), devices: null, payouts: null,
    harvest: null, contracts: null, burstOf: new Map(), transfers: null, supply: null, events: [], errors: {},
  });
}

/** Forget the session, here and in the browser's cookie. */
export async function leave() {
  await fetch("/logout", { method: "POST" }).catch(() => null);
  signOut();
}

function onLink(state, attempt) {
  store.update({ link: { state, attempt } });
  // After a gap the read models may have moved: the feeds resume by themselves, the tables are read again.
  if (state === "live" || state === "reconnecting") mark(Object.keys(SECTIONS), 0);
}

export function reconnect() {
  location.reload();
}

async function loadVersion() {
  const answer = await fetch("/version").catch(() => null);
  if (answer?.ok) store.update({ version: await answer.json().catch(() => null) });
}

/** Find out who we are, then load and follow everything. Called once. */
export async function start() {
  setInterval(tick, 1000);
  setInterval(refresh, REFRESH_MS);
  loadVersion();
  for (let attempt = 0; store.get().auth === "checking"; attempt += 1) {
    try {
      const { head } = await loadProjections();
      backlogEnd = head;
      open(head);
    } catch (error) {
      if (error.kind === "signed_out") return signOut();
      if (error.kind === "refused") {
        store.update({ feed: "refused" }); // a member: no feed of the log, so the sections are polled
        return open(0);
      }
      store.update({ link: { state: "reconnecting", attempt: attempt + 1 } });
      await new Promise((resolve) => setTimeout(resolve, Math.min(8_000, 500 * 2 ** Math.min(attempt, 4))));
    }
  }
}

function open(head) {
  store.update({ auth: "signed_in" });
  lastPoll = Date.now();
  feeds = openFeeds(onLink);
  if (store.get().feed === "open") {
    feeds.subscribe(documents.EVENTS, { after: Math.max(0, head - BACKLOG) }, { onNext: onEvent, onError: onFeedError });
  }
  followRounds();
  mark(Object.keys(SECTIONS), 0);
  refresh();
}
