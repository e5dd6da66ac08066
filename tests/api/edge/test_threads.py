"""Blocking work waits for a thread in a bounded queue."""

import threading

import anyio
import pytest

from api.edge.threads import MAX_WAITING, Overloaded, Threads


def test_one_caller_more_than_may_wait_is_refused_and_all_others_are_answered() -> None:
    async def storm() -> list[int]:
        threads, go, done = Threads(1), threading.Event(), list[int]()

        async def ask(number: int) -> None:
            def work() -> int:
                go.wait(30)
                return number

            done.append(await threads.run(work))

        async with anyio.create_task_group() as callers:
            for number in range(1 + MAX_WAITING):
                callers.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Overloaded):
                await threads.run(lambda: -1)
            go.set()
        assert await threads.run(lambda: MAX_WAITING + 1) == MAX_WAITING + 1, "there is room again"
        return done

    assert sorted(anyio.run(storm)) == list(range(1 + MAX_WAITING))
