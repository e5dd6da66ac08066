"""What went between wallets, by brute force."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from domain.kernel import Fact
from domain.tokenomics.transfer import Transfer
from projections.fold import Fold
from projections.tokenomics.flows import FlowRow, Flows

Rows = Mapping[tuple[UUID, UUID], FlowRow]


def flow_rows(facts: Iterable[Fact]) -> Rows:
    """The read model, folded from these facts."""
    fold = Fold(Flows()).add([fact for fact in facts if isinstance(fact.event, Transfer.Posted)])
    assert not fold.letters
    return fold.rows


def flows_through(rows: Rows, one: UUID, other: UUID) -> tuple[int, int, list[tuple[int, int]]]:
    """What one wallet gave another and it that one, and the net hops through every third wallet there is."""
    direct = rows.get((one, other))
    thirds = {partner for wallet, partner in rows if wallet == one} & {wallet for wallet, to in rows if to == other}
    hops = [(rows[one, third].net_grains, rows[third, other].net_grains) for third in thirds]
    return (0, 0, hops) if direct is None else (direct.gave_grains, direct.got_grains, hops)
