"""The tokenomics service: payments between owners and rewards for what devices do, one command a record."""

from domain.kernel import EventLog
from domain.kernel.turns import Turns

from .payments import Payments
from .pricing import Policy
from .rewards import Forfeiting, PendingRewards, Rewards


class TokenomicsService(Payments, Rewards):
    """Wallets, payments and rewards. All amounts are grains.

    Args:
        log: the village's event log.
        policy: the economy's settings.
        pending: the query port of `get_pending_rewards`; a process without read models has none.
        forfeiting: the query port that says which devices are not paid; without it all of them are.
    """

    def __init__(
        self,
        log: EventLog,
        policy: Policy | None = None,
        pending: PendingRewards | None = None,
        forfeiting: Forfeiting | None = None,
    ) -> None:
        self.log = log
        self.policy = policy or Policy()
        self.pending = pending
        self.forfeiting = forfeiting
        self.turns = Turns()
