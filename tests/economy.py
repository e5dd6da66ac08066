"""A village's economy on a log: the service, a clock one can turn, and owners with tokens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

from domain.kernel import EventLog, Fact, new_scope, within
from domain.kernel.personal import SealedText, SubjectKeys
from domain.kernel.tokens import tokens
from domain.sagas.forfeit import which_forfeit
from domain.tokenomics.accounts import SYSTEM_ACCOUNT_NAMES, wallet_id_of
from domain.tokenomics.pricing import MS_PER_HOUR, Activity, Policy
from domain.tokenomics.rewards import PendingRewards
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.transfer import Transfer
from domain.tokenomics.wallet import Wallet
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from infrastructure.event_store.reader import MAX_POSITION
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from projections.rows import ReadModel
from projections.tokenomics import READ_MODELS
from projections.tokenomics.queries import RewardIndex
from tests.keys import HeldKeys
from tests.memory import MemoryRecorder, memory_log
from tests.memory_stage import MemoryStage
from tests.sagas import Stage
from workers.projector import Projector
from workers.saga_runner import Handler

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Books:
    """Commands run under a scope at `now`; `given` hands an owner tokens of the treasury."""

    log: EventLog
    keys: SubjectKeys

    def __init__(self, policy: Policy | None = None, pending: PendingRewards | None = None) -> None:
        self.now = NOON
        self.log = self.opened_log()
        self.service = TokenomicsService(self.log, policy, pending, partial(which_forfeit, self.log))

    def opened_log(self) -> EventLog:
        """A log of these books, as another process would have it."""
        raise NotImplementedError

    @contextmanager
    def acting(self, **scope: Any) -> Iterator[None]:
        """Run commands as the tests."""
        with within(new_scope("test", now=self.now, **scope)):
            yield

    def given(self, grains: int, owner_id: UUID | None = None) -> UUID:
        """An owner with a wallet that has earned these grains: one for each ms, so at most 3 x 10^10."""
        owner_id = owner_id or uuid4()
        with self.acting():
            fund(self.service, owner_id, grains)
        return owner_id

    def pay(self, payer: UUID, payee: UUID, grains: int, payment_id: str | None = None, **more: Any) -> Any:
        """One payment; a new payment id by default."""
        with self.acting():
            return self.service.process_payment(
                payment_id=payment_id or str(uuid4()), from_owner_id=payer, to_owner_id=payee, grains=grains, **more
            )

    def accrue(self, *, owner_id: UUID | None = None, verified_ms: int = 3_600_000, quality_bp: int = 10_000) -> UUID:
        """The claim of a new device for an hour of training, or another time."""
        activity = Activity("fl_participation", uuid4(), uuid4(), owner_id or uuid4(), verified_ms, quality_bp)
        with self.acting():
            claim_id = self.service.accrue_reward(activity=activity).id
        assert claim_id is not None
        return claim_id

    def distribute(self, claim_ids: Sequence[UUID], batch_id: UUID | None = None) -> Any:
        """Post a batch; a new batch id by default."""
        with self.acting():
            return self.service.distribute_rewards(batch_id=batch_id or uuid4(), claim_ids=claim_ids)

    def wallet(self, owner_id: UUID) -> Wallet:
        """The wallet as the log has it."""
        return self.log.load(Wallet, wallet_id_of(owner_id))

    def read(self, text: SealedText | None) -> str | None:
        """A sealed text opened."""
        return None if text is None else self.keys.open([text])[text].text

    def facts(self, after: int = 0) -> list[Fact]:
        """The log after a position."""
        raise NotImplementedError

    def names(self, stream: UUID) -> list[str]:
        """The names of a stream's facts."""
        return [fact.topic.rpartition(".")[2] for fact in self.facts() if fact.stream == stream]

    def staged(self, handlers: Sequence[Handler], village: Any, models: Sequence[ReadModel[Any]] = ()) -> Stage:
        """A stage for sagas on these books, with read models besides that of deadlines."""
        raise NotImplementedError

    def close(self) -> None:
        self.log.close()


class Economy(Books):
    """Books in a database, and the read models of them."""

    def __init__(self, url: str, database: Database, policy: Policy | None = None) -> None:
        self.url = url
        self.database = database
        self._facts: list[Fact] = []
        self.keys_home = TemporaryDirectory(prefix="village-economy-")
        self.keys = SubjectKeyTable(database, KeyEncryptionKeys(Path(self.keys_home.name)))
        self.index = RewardIndex(database)
        super().__init__(policy, self.index)
        self.projector = Projector(database, list(READ_MODELS))

    def opened_log(self) -> EventLog:
        return open_event_log(self.url, clock=lambda: self.now, subject_keys=self.keys)

    def facts(self, after: int = 0) -> list[Fact]:
        """The log after a position. Nothing changes what is in it: only what is new is read."""
        read = self._facts[-1].position if self._facts else 0
        with self.database.connect(Role.READER) as connection:
            for batch in LogReader(connection).all(MAX_POSITION, read):
                self._facts += [record.fact() for record in batch.records]
        return self._facts[after:]

    def names(self, stream: UUID) -> list[str]:
        with self.database.connect(Role.READER) as connection:
            return [record.topic.rpartition(".")[2] for record in LogReader(connection).of_streams([stream])]

    def staged(self, handlers: Sequence[Handler], village: Any, models: Sequence[ReadModel[Any]] = ()) -> Stage:
        return Stage(self, handlers, village, models)

    def close(self) -> None:
        super().close()
        self.keys_home.cleanup()


class MemoryEconomy(Books):
    """Books in memory, for tests of decisions that need no server."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.keys = HeldKeys()
        self.recorder = MemoryRecorder(lambda: self.now)
        super().__init__(policy)

    def opened_log(self) -> EventLog:
        return memory_log(self.recorder, self.keys)

    def facts(self, after: int = 0) -> list[Fact]:
        return self.recorder.facts(after)

    def staged(self, handlers: Sequence[Handler], village: Any, models: Sequence[ReadModel[Any]] = ()) -> Stage:
        return MemoryStage(self, handlers, village, models)


NewEconomy = Callable[[Policy], Books]
"""Opens the books of a test, under a policy."""


def fund(service: TokenomicsService, owner_id: UUID, grains: int) -> None:
    """Open an owner's wallet and let it earn these grains, one for each ms; inside a command scope."""
    generous = TokenomicsService(service.log, replace(service.policy, rate_grains_per_hour=MS_PER_HOUR))
    service.open_wallet(owner_id=owner_id)
    if grains:
        work = Activity("harvest_contribution", uuid4(), uuid4(), owner_id, grains, 10_000)
        claim_id = generous.accrue_reward(activity=work).id
        assert claim_id is not None
        generous.distribute_rewards(batch_id=uuid4(), claim_ids=[claim_id])


def assert_sound(facts: Sequence[Fact]) -> None:
    """What must hold of any log, at the end of every command: nothing drifts, nobody is overdrawn, wallets agree.

    Balances are folded from transfers, and compared with what the facts of the wallets say.
    """
    balances: dict[UUID, int] = {}
    wallets: dict[UUID, int] = {}
    for index, fact in enumerate(facts):
        match fact.event:
            case Transfer.Posted(legs=legs):
                for leg in legs:
                    balances[leg.account] = balances.get(leg.account, 0) + leg.grains
                assert sum(balances.values()) == 0
            case Wallet.Credited(grains=grains):
                wallets[fact.stream] = wallets.get(fact.stream, 0) + grains
            case Wallet.Debited(grains=grains):
                wallets[fact.stream] = wallets.get(fact.stream, 0) - grains
        if index + 1 == len(facts) or facts[index + 1].command_id != fact.command_id:
            owned = {account: grains for account, grains in balances.items() if account not in SYSTEM_ACCOUNT_NAMES}
            assert all(grains >= 0 for grains in owned.values())
            assert owned == {account: grains for account, grains in wallets.items() if account in owned}


HOUR = tokens(15)
"""What an hour of training at full quality earns."""
