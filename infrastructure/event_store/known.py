"""What a writer knows of the log since its last flush: mostly enough to decide the next before it takes the lock."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from domain.kernel.write import Write

from .decide import LogState

MAX_STREAMS = 16_384
MAX_GUESSED = 2_048
"""Facts of a flush that is guessed: a reward batch is, and one that is guessed in vain is not packed for long."""
NOTHING_YET = datetime(1970, 1, 1, tzinfo=UTC)
"""What a log without facts has for the instant of its newest one."""


class Known:
    """The log as the last flush of this writer left it: a guess, for other processes append to it too.

    Whatever is decided on it is written only where the log agrees. It is asked only while nobody else appends.
    """

    def __init__(self) -> None:
        self.newest: bytes | None = None
        """The id of the newest fact."""
        self._position = 0
        self._recorded_at = NOTHING_YET
        self._versions: OrderedDict[int, int] = OrderedDict()
        self._alone = False

    def guess(
        self, writes: Sequence[Write], topics_since: Callable[[UUID, int], list[str]]
    ) -> tuple[LogState, dict[int, int]] | None:
        """What these writes would most likely read under the lock; None when that is better read.

        While the newest fact is the one that is known it is so, but for the versions told beside it: those are what
        commands have read of streams that are not known.
        """
        if not self._alone or self.newest is None or any(write.cursors for write in writes):
            return None
        if sum(len(write.appends) for write in writes) > MAX_GUESSED:
            return None
        streams: dict[int, int] = {}
        unsure: dict[int, int] = {}
        known = self._versions
        for write in writes:
            for number, version in write.reads.items():
                if number in streams:
                    continue
                if number not in known:
                    unsure[number] = version
                streams[number] = known.get(number, version)
            for append in write.appends:
                number = append.stream.int
                if number not in streams:
                    if number not in known:
                        return None
                    streams[number] = known[number]
        state = LogState(
            began_at=self._position,
            position=self._position,
            recorded_at=self._recorded_at,
            streams=streams,
            cursors={},
            given={},
            standing={},
            retried=False,
            stored_topics_since=topics_since,
        )
        return state, unsure

    def learn(self, state: LogState, found: bytes | None, newest: bytes | None, recorded_at: datetime) -> None:
        """Remember the log as a flush has left it, and whether anybody had appended since the one before.

        Args:
            found: the id of the newest fact before the flush; in a log that lost facts others may be in their place.
            newest: that of the newest one after it.
        """
        self._alone = state.began_at == self._position and found == self.newest
        is_large = state.position - state.began_at > MAX_GUESSED
        if is_large or not self._alone:
            self._versions.clear()
        self.newest, self._position, self._recorded_at = newest, state.position, recorded_at
        if is_large:
            return
        for number, version in state.streams.items():
            self._versions[number] = version
            self._versions.move_to_end(number)
        while len(self._versions) > MAX_STREAMS:
            self._versions.popitem(last=False)

    def doubt(self) -> None:
        """Guess no more until two flushes in a row have found nothing between them."""
        self._alone = False

    @property
    def streams(self) -> int:
        """Of how many streams the version is known."""
        return len(self._versions)
