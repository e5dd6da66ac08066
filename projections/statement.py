"""A wallet's statement from the log itself: what `village tokens statement` shows, whatever the read models say."""

from typing import Any
from uuid import UUID

import psycopg

from domain.kernel.errors import PositionAhead
from domain.tokenomics.transfer import Transfer
from domain.tokenomics.wallet import Wallet
from infrastructure.event_store.reader import MAX_STREAM_FACTS, LogReader

from .as_of import TooFarToFold
from .tokenomics.queries import Entry


def entries_at(connection: psycopg.Connection[Any], wallet_id: UUID, position: int, last: int) -> list[Entry]:
    """The last entries of a wallet up to a position, the newest last, each with the balance after it.

    Raises:
        PositionAhead: the log has not come so far. TooFarToFold: the wallet has 100,000 facts or more.
    """
    reader = LogReader(connection)
    if not 0 <= position <= (head := reader.head()):
        raise PositionAhead(f"position {position}; the newest fact is at {head}")
    records = reader.of_streams([wallet_id], until=position)
    if len(records) >= MAX_STREAM_FACTS:
        raise TooFarToFold(f"{len(records)} facts of one wallet")
    entries, balance = [], 0
    for fact in (record.fact() for record in records):
        match fact.event:
            case Wallet.Credited(transfer_id=transfer_id, grains=grains):
                pass
            case Wallet.Debited(transfer_id=transfer_id, grains=taken):
                grains = -taken
            case _:
                continue
        balance += grains
        entries.append(Entry(fact.position, transfer_id, "", grains, balance, fact.recorded_at))
    chosen = entries[-last:]
    kinds = _kinds(reader, [entry.transfer_id for entry in chosen])
    return [entry._replace(kind=kinds[entry.transfer_id]) for entry in chosen]


def _kinds(reader: LogReader, transfer_ids: list[UUID]) -> dict[UUID, str]:
    facts = [record.fact() for record in reader.of_streams(transfer_ids)]
    return {fact.stream: fact.event.kind for fact in facts if isinstance(fact.event, Transfer.Posted)}
