"""The aggregate and the service of benchmarks: one rule and one number."""

from uuid import UUID

from domain.kernel import Aggregate, Created, EventLog, Receipt, command, event


class Meter(Aggregate, context="benchmarks"):
    """Has one rule and one number."""

    class Installed(Created):
        meter_id: UUID

    class Advanced(Aggregate.Event):
        by: int

    @event(Installed)
    def __init__(self, meter_id: UUID) -> None:
        self.stands_at = 0

    @staticmethod
    def create_id(meter_id: UUID) -> UUID:
        return meter_id

    def advance(self, by: int) -> None:
        assert by > 0
        self._advanced(by=by)

    @event(Advanced)
    def _advanced(self, by: int) -> None:
        self.stands_at += by


class Meters:
    """The service of the benchmark."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @command
    def install(self, *, meter_id: UUID) -> Receipt:
        return self.log.record(Meter(meter_id=meter_id))

    @command
    def advance(self, *, meter_id: UUID) -> Receipt:
        meter = self.log.load(Meter, meter_id)
        meter.advance(1)
        return self.log.record(meter)
