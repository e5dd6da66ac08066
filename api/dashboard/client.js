// Talks GraphQL: queries over HTTP, subscriptions over graphql-transport-ws that resume from the last position seen.

import { createClient } from "./vendor/graphql-ws.js";

const QUERY_TIMEOUT_MS = 10_000;
const PING_MS = 10_000;
const PONG_WAIT_MS = 5_000;
const LONGEST_WAIT_MS = 4_000;
const RETRIES = 10_000; // about half a day at the longest wait; then the page offers a button
const SIGNED_OUT_CODES = new Set(["credentials_missing", "token_invalid", "token_expired", "unauthenticated"]);
const REFUSED_CODES = new Set(["forbidden"]);

/** kind: signed_out (no valid session) | refused (not yours to read) | unreachable | failed */
export class ApiError extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

function errorOf(errors) {
  const first = errors[0];
  const code = first.extensions?.code ?? "";
  const kind = SIGNED_OUT_CODES.has(code) ? "signed_out" : REFUSED_CODES.has(code) ? "refused" : "failed";
  return new ApiError(kind, first.message);
}

async function send(body) {
  try {
    return await fetch("/graphql", {
      method: "POST",
      credentials: "same-origin",
      headers: { "content-type": "application/json", accept: "application/graphql-response+json, application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(QUERY_TIMEOUT_MS),
    });
  } catch (error) {
    throw new ApiError("unreachable", String(error?.message ?? error));
  }
}

export async function query(document, variables = {}) {
  const answer = await send({ query: document, variables });
  if (answer.status === 401) throw new ApiError("signed_out", "not signed in");
  if (answer.status === 403) throw new ApiError("refused", "not allowed");
  if (answer.status >= 502) throw new ApiError("unreachable", `status ${answer.status}`);
  const body = await answer.json().catch(() => null);
  if (body?.errors?.length) throw errorOf(body.errors);
  if (!answer.ok || !body?.data) throw new ApiError("failed", body?.title ?? `status ${answer.status}`);
  return body.data;
}

/** Read a connection page by page, at most `pages` of them. */
export async function queryPages(document, root, variables, pages) {
  const nodes = [];
  let after = null;
  let totalCount = null;
  for (let page = 0; page < pages; page += 1) {
    const connection = (await query(document, { ...variables, after }))[root];
    nodes.push(...connection.edges.map((edge) => edge.node));
    totalCount = connection.totalCount ?? totalCount;
    if (!connection.pageInfo.hasNextPage) break;
    after = connection.pageInfo.endCursor;
  }
  return { nodes, totalCount };
}

function waitBefore(attempt) {
  const ms = Math.min(LONGEST_WAIT_MS, 250 * 2 ** Math.min(attempt, 6));
  return new Promise((resolve) => setTimeout(resolve, ms * (0.75 + Math.random() / 2)));
}

/** One socket for all subscriptions; `onLink(state, attempt)` tells connecting | live | reconnecting | stopped. */
export function openFeeds(onLink) {
  let attempt = 0;
  let pongTimer = null;
  let closed = false;
  const client = createClient({
    url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/graphql`,
    keepAlive: PING_MS,
    connectionAckWaitTimeout: QUERY_TIMEOUT_MS,
    retryAttempts: RETRIES,
    retryWait: waitBefore,
    // A refused connection reaches the client as a bare error event before its close event; both are worth a retry.
    shouldRetry: () => true,
    on: {
      connecting: () => onLink(attempt === 0 ? "connecting" : "reconnecting", attempt),
      connected: () => {
        attempt = 0;
        onLink("live", 0);
      },
      closed: () => {
        clearTimeout(pongTimer);
        attempt += 1;
        if (!closed) onLink("reconnecting", attempt);
      },
      // A half-open connection never closes by itself: no pong in time ends it, and the client retries.
      ping: (received) => {
        if (!received) pongTimer = setTimeout(() => client.terminate(), PONG_WAIT_MS);
      },
      pong: (received) => {
        if (received) clearTimeout(pongTimer);
      },
    },
  });

  /**
   * Subscribe from `variables.after` on. The client sends the same `variables` object again after a reconnect, so
   * moving `after` with every message is what makes the feed resume with nothing lost and nothing doubled.
   */
  function subscribe(document, variables, { onNext, onError }) {
    let stopped = false;
    let dispose = () => {};
    let ends = 0;
    const run = () => {
      dispose = client.subscribe(
        { query: document, variables },
        {
          next: ({ data, errors }) => {
            if (errors?.length) return onError(errorOf(errors));
            const item = Object.values(data)[0];
            if (item.position <= variables.after) return;
            ends = 0;
            variables.after = item.position;
            onNext(item);
          },
          error: (problem) => {
            if (stopped) return;
            if (Array.isArray(problem)) return onError(errorOf(problem));
            if (problem?.code === 4401 || problem?.code === 4403) {
              return onError(new ApiError("signed_out", problem.reason));
            }
            onLink("stopped", attempt);
          },
          // The server ends the feed of a reader that fell behind: come back from where we stood.
          complete: async () => {
            if (stopped) return;
            ends += 1;
            await waitBefore(ends);
            if (!stopped) run();
          },
        },
      );
    };
    run();
    return () => {
      stopped = true;
      dispose();
    };
  }

  return {
    subscribe,
    close() {
      closed = true;
      client.dispose();
    },
  };
}
