"""The feed of a contract, for its parties and operators."""

from collections.abc import AsyncGenerator
from functools import partial
from uuid import UUID

import strawberry

from api.edge.graphql import Info, Position, equals
from domain.marketplace.states import ContractUnknown
from projections.as_of import row_at
from projections.marketplace import ContractRow, Contracts

from .graphql import CONTRACTS, Contract
from .parties import parties


@strawberry.type
class ContractChange:
    """A fact of a contract by its name, its position, and the contract as it stands after it."""

    position: Position
    change: str
    contract: Contract


@strawberry.type
class Subscription:
    """Subscriptions of the marketplace."""

    @strawberry.subscription
    async def contract(
        self, info: Info, contract_id: UUID, after: Position | None = None
    ) -> AsyncGenerator[ContractChange, None]:
        """Every change of a contract, resuming after a position (by default: from now on)."""
        if await CONTRACTS.one(info, *parties(info), *equals("contract_id", contract_id), at_least=after) is None:
            raise ContractUnknown(f"contract {contract_id}")
        context, model = info.context, Contracts()
        row: ContractRow | None = None

        def before(position: int) -> ContractRow | None:
            with context.ctx.database.reader.connection() as connection:
                return row_at(connection, model, contract_id, position - 1)

        follow = context.feed.follow(
            after, topics=model.topics, streams=frozenset({contract_id}), until=context.principal.expires_at
        )
        async for record in follow:
            row = row or await context.ctx.in_query_thread(partial(before, record.position))
            row = model.evolve(row, record.fact(), contract_id)
            if row is not None:
                change = record.topic.rpartition(".")[2]
                yield ContractChange(position=Position(record.position), change=change, contract=Contract.of(row))
