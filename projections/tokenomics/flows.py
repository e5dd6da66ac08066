"""What owners have paid each other: by themselves, or for contracts; and what went round through a third owner."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from domain.kernel.fact import Fact
from domain.tokenomics.accounts import is_system
from domain.tokenomics.transfer import Leg, Transfer
from infrastructure.database import Database
from projections.rows import Key, ReadModel, Row

PAYMENTS = frozenset({"payment", "service_payment", "hold_capture"})
MOST = 100
"""Through how many third owners tokens are followed, of each side those with which it moved most."""

_POSITION = "SELECT coalesce(min(position), 0) FROM engine.cursors WHERE name = 'flows'"
_BETWEEN = "SELECT gave_grains, got_grains FROM read.flows WHERE wallet_id = %(one)s AND partner_id = %(other)s"
_NEAR = """
    (SELECT partner_id FROM read.flows WHERE wallet_id = %({})s AND partner_id <> %({})s
     ORDER BY moved_grains DESC, partner_id LIMIT %(most)s)
"""
_NET = "{0}.gave_grains + {0}.paid_grains - {0}.got_grains - {0}.earned_grains"
_HOPS = f"""
    WITH near AS ({_NEAR.format("one", "other")} UNION {_NEAR.format("other", "one")})
    SELECT {_NET.format("first")}, {_NET.format("second")}
    FROM near
    JOIN read.flows AS first ON first.wallet_id = %(one)s AND first.partner_id = near.partner_id
    JOIN read.flows AS second ON second.wallet_id = near.partner_id AND second.partner_id = %(other)s
"""


class FlowRow(Row, frozen=True):
    """All that went between a wallet and a partner, in grains before fees.

    `gave` and `got` were paid by an owner itself, `paid` and `earned` by the village for a contract; `moved` is all.
    """

    wallet_id: UUID
    partner_id: UUID
    gave_grains: int
    got_grains: int
    paid_grains: int
    earned_grains: int
    moved_grains: int
    position: int

    @property
    def net_grains(self) -> int:
        """What the wallet has given more than it got."""
        return self.gave_grains + self.paid_grains - self.got_grains - self.earned_grains


class Flows(ReadModel[FlowRow]):
    """Flows by wallet and partner; each payment is in the rows of both."""

    name = "flows"
    table = "read.flows"
    row = FlowRow
    key = ("wallet_id", "partner_id")
    listens = (Transfer.Posted,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        if fact.event.kind not in PAYMENTS:
            return ()
        payer, payee = _parties(fact.event.legs)
        return () if payee is None else ((payer.account, payee), (payee, payer.account))

    def evolve(self, row: FlowRow | None, fact: Fact, key: Key) -> FlowRow | None:
        made: Any = fact.event
        payer, _ = _parties(made.legs)
        grains = -payer.grains
        gave, got, paid, earned = (
            (0, 0, 0, 0) if row is None else (row.gave_grains, row.got_grains, row.paid_grains, row.earned_grains)
        )
        out = key[0] == payer.account
        if made.cause_event_id is None:
            gave, got = (gave + grains, got) if out else (gave, got + grains)
        else:
            paid, earned = (paid + grains, earned) if out else (paid, earned + grains)
        return FlowRow(key[0], key[1], gave, got, paid, earned, gave + got + paid + earned, fact.position)


def _parties(legs: Sequence[Leg]) -> tuple[Leg, UUID | None]:
    """The leg of who paid, and who was paid; None where all of it went to the village."""
    payer, payee = legs[0], None
    for leg in legs:
        if leg.grains < 0:
            payer = leg
        elif payee is None and not is_system(leg.account):
            payee = leg.account
    return payer, payee


class Between(NamedTuple):
    """What one wallet gave another by itself, and that one it; the net hops through third ones; and as of when."""

    gave: int
    got: int
    hops: list[tuple[int, int]]
    position: int


class FlowIndex:
    """Answers from the read model, in one snapshot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def between(self, one: UUID, other: UUID, most: int = MOST) -> Between:
        """What went between two wallets, directly and through those with which each of them moved most."""
        named = {"one": one, "other": other, "most": most}
        with self._database.reader.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            direct = _all(connection, _BETWEEN, named) or [(0, 0)]
            hops = _all(connection, _HOPS, named)
            ((position,),) = _all(connection, _POSITION, {})
        (gave, got) = direct[0]
        return Between(gave, got, hops, position)


def _all(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), parameters).fetchall()
