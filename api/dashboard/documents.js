// Every GraphQL document the page sends, in one place: a test validates each against the schema.

export const SESSIONS = `query Sessions($first: Int!) {
  trainingSessions(first: $first) {
    edges { node { sessionId name state strategy rounds currentRound modelHash createdAt } }
  }
}`;

export const ROUNDS = `query Rounds($sessionId: UUID!, $first: Int!, $after: String) {
  rounds(sessionId: $sessionId, first: $first, after: $after) {
    edges { node {
      roundId number state participants selected accepted rejected dropped
      openedAt deadlineAt completedAt durationMs accuracy loss reason position
    } }
    pageInfo { hasNextPage endCursor }
  }
}`;

export const DEVICES = `query Devices($first: Int!, $after: String) {
  devices(first: $first, after: $after) {
    edges { node { deviceId ownerId deviceType region presence latencyMs ramMb cpuCores computeScore status statusReason } }
    pageInfo { hasNextPage endCursor }
    totalCount
  }
}`;

export const PAYOUTS = `query Payouts($first: Int!, $after: String) {
  devicePayouts(first: $first, after: $after) {
    edges { node { deviceId claims paidGrains pendingGrains } }
    pageInfo { hasNextPage endCursor }
  }
}`;

export const TRANSFERS = `query Transfers($first: Int!) {
  transfers(first: $first) {
    edges { node { transferId kind state movedGrains postedAt position legs { account name grains } } }
  }
}`;

export const HARVEST = `query Harvest($first: Int!) {
  harvestSessions(first: $first) {
    edges { node { sessionId deviceId state reason { text } trips verifiedMs earnedGrains
      latest { batteryPercent batteryTemp skinTemp cpuTemp cpuPercent }
    } }
  }
}`;

export const CONTRACTS = `query Contracts($first: Int!) {
  contracts(first: $first) {
    edges { node { contractId state outcome reason usedMs durationMs agreedPrice creditGrains chargedGrains } }
  }
  bursts(first: $first) { edges { node { burstId nodes { contractId } } } }
}`;

export const WALLETS = `query Wallets($first: Int!, $after: String) {
  wallets(first: $first, after: $after) {
    edges { node { walletId ownerId } }
    pageInfo { hasNextPage endCursor }
  }
}`;

export const SUPPLY = `query Supply {
  supply { issuedGrains totalGrains driftGrains conserved }
}`;

export const PROJECTIONS = `query Projections {
  projections { name position head lag }
}`;

export const EVENTS = `subscription Events($after: Position!) {
  events(after: $after) { position topic stream version recordedAt actor }
}`;

export const ROUND_PROGRESS = `subscription RoundProgress($sessionId: UUID!, $after: Position!) {
  roundProgress(sessionId: $sessionId, after: $after) {
    position roundId number state participants selected accepted rejected dropped accuracy loss
  }
}`;
