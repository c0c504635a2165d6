"""A minute of everything at once: every call is accounted for, and no thread is left.

Seeded by BRIDGE_SOAK_SEED (default 1), as long as BRIDGE_SOAK_SECONDS (default 60). Three crowds share one loop: tasks
that offload, cancel and time out; 200 threads that call in; and loops that are closed while threads wait for them.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import Any

import pytest

import bridge

from .conftest import comes_and_goes

SECONDS = float(os.environ.get("BRIDGE_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("BRIDGE_SOAK_SEED", "1"))
THREADS = 200
TASKS = 60
#: No single call here has reason to take this long, whatever the machine is doing.
HANG = 45.0


class Deliberate(Exception):
    """Raised by functions that are meant to fail."""


class Ledger:
    """What was asked for, what came of it, and what is still open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.open: dict[int, tuple[str, float]] = {}
        self.began = 0
        self.finished = 0
        self._next = 0

    def ask(self, kind: str) -> int:
        with self._lock:
            self._next += 1
            self.asked[kind] += 1
            self.open[self._next] = (kind, time.monotonic())
            return self._next

    def end(self, number: int, how: str) -> None:
        with self._lock:
            kind, _ = self.open.pop(number)
            self.ended[kind, how] += 1

    def begin(self) -> None:
        with self._lock:
            self.began += 1

    def finish(self) -> None:
        with self._lock:
            self.finished += 1

    def hanging(self) -> list[str]:
        now = time.monotonic()
        with self._lock:
            return [kind for kind, since in self.open.values() if now - since > HANG]

    def settle(self) -> None:
        """Every call ended exactly once, in a way it may end."""
        assert not self.open
        for kind, count in self.asked.items():
            ends = {how: n for (k, how), n in self.ended.items() if k == kind}
            assert sum(ends.values()) == count, (kind, count, ends)
            assert not {how for how in ends if how.startswith("wrong")}, (kind, ends)
        assert self.began == self.finished


class Soak:
    def __init__(self) -> None:
        self.ledger = Ledger()
        self.until = time.monotonic() + SECONDS
        self.callbacks_sent = 0
        self.callbacks_run = 0
        self._count = threading.Lock()

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    # -- what is run in threads ----------------------------------------------------------------------------------------

    def work(self, seconds: float, fail: bool = False) -> float:
        self.ledger.begin()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.0005)
                bridge.check_cancelled()
            if fail:
                raise Deliberate
            return seconds
        finally:
            self.ledger.finish()

    def chain(self, lane: str, depth: int) -> int:
        """A worker that calls into the loop, which calls a worker, which ..."""
        if not depth:
            return 0

        async def deeper() -> int:
            return 1 + await bridge.offload(to=lane)(self.chain)(lane, depth - 1)

        return bridge.portal().call(deeper)

    def numbers(self, count: int) -> Any:
        yield from range(count)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def tasks(self, number: int) -> None:
        dice = random.Random(f"{SEED}/task/{number}")
        quick = bridge.offload(timeout=0.003)(self.work)
        impatient = bridge.offload(to="few", cancel="abandon")(self.work)
        acts: list[Callable[[], Awaitable[None]]] = [
            lambda: self.expect("run", bridge.to_thread(self.work, dice.random() / 200)),
            lambda: self.expect("fail", bridge.to_thread(self.work, 0, fail=True), "raised"),
            lambda: self.expect("timeout", quick(dice.random() / 100), "returned", "timed out"),
            lambda: self.expect("chain", bridge.offload(to="one")(self.chain)("one", dice.randrange(4))),
            lambda: self.cancelled("cancel", bridge.offload(to="few")(self.work)(dice.random() / 50), dice),
            lambda: self.cancelled("abandon", impatient(dice.random() / 50), dice),
            lambda: self.cancelled("cancel chain", bridge.offload(to="few")(self.chain)("few", 2), dice),
            lambda: self.expect("stream", self.read_some(dice.randrange(1, 60))),
            lambda: self.expect("map", self.map_some(dice.randrange(1, 20))),
        ]
        while not self.over:
            await dice.choice(acts)()

    async def expect(self, kind: str, awaitable: Awaitable[Any], *how: str) -> None:
        number = self.ledger.ask(kind)
        ended = "wrong: lost"
        try:
            await awaitable
            ended = "returned"
        except Deliberate:
            ended = "raised"
        except TimeoutError:
            ended = "timed out"
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        finally:
            allowed = ("cancelled", *(how or ("returned",)))
            self.ledger.end(number, ended if ended in allowed else f"wrong: {ended}")

    async def cancelled(self, kind: str, awaitable: Any, dice: random.Random) -> None:
        task = asyncio.ensure_future(self.expect(kind, awaitable))
        await asyncio.sleep(dice.choice((0, 0, dice.random() / 30)))
        task.cancel()
        if dice.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])

    async def read_some(self, count: int) -> None:
        async with aclosing(bridge.stream(self.numbers, 50, to="few", in_flight=4)) as numbers:
            expected = 0
            async for number in numbers:
                assert number == expected
                expected += 1
                if expected == count:
                    break
        assert expected == min(count, 50)

    async def map_some(self, count: int) -> None:
        async with aclosing(bridge.map(abs, range(10), to="few", in_flight=3)) as results:
            seen = [result async for result, _ in _zip(results, count)]
        assert seen == list(range(min(count, 10)))

    # -- threads -------------------------------------------------------------------------------------------------------

    def thread(self, number: int, portal: bridge.Portal) -> None:
        dice = random.Random(f"{SEED}/thread/{number}")
        while not self.over:
            act = dice.randrange(4)
            if act == 0:
                self.call("call async", lambda: portal.call(asyncio.sleep, dice.random() / 100, "slept"))
            elif act == 1:
                self.call("call sync", lambda: portal.call(abs, -1))
            elif act == 2:
                self.send_callbacks(portal, dice.randrange(1, 20))
            else:
                self.call("future", lambda: self.use_future(portal, dice))
            time.sleep(dice.random() / 20)

    def call(self, kind: str, act: Callable[[], Any], *also: type[BaseException]) -> None:
        number = self.ledger.ask(kind)
        how = "wrong: lost"
        try:
            act()
            how = "returned"
        except CancelledError:
            how = "cancelled"
        except bridge.LoopClosed:
            how = "refused" if bridge.LoopClosed in also else "wrong: LoopClosed"
        except BaseException as error:
            how = f"wrong: {error!r}"
        finally:
            self.ledger.end(number, how)

    def use_future(self, portal: bridge.Portal, dice: random.Random) -> None:
        future = portal.run_coroutine_threadsafe(asyncio.sleep(dice.random() / 100))
        if dice.random() < 0.5:
            time.sleep(dice.random() / 100)
            future.cancel()
        future.result(HANG)

    def send_callbacks(self, portal: bridge.Portal, count: int) -> None:
        for _ in range(count):
            with self._count:
                self.callbacks_sent += 1
            portal.call_soon_threadsafe(self.callback)

    def callback(self) -> None:
        self.callbacks_run += 1

    # -- loops that end ------------------------------------------------------------------------------------------------

    def loops_that_end(self, number: int) -> None:
        dice = random.Random(f"{SEED}/loop/{number}")
        while not self.over:
            factory = dice.choice((bridge.new_event_loop, None))
            try:
                with bridge.background_loop(loop_factory=factory) as portal:
                    callers = [threading.Thread(target=self.until_refused, args=(portal,)) for _ in range(4)]
                    for caller in callers:
                        caller.start()
                    time.sleep(dice.random() / 20)
                    raise Deliberate  # leaving by an exception cancels what is in flight
            except Deliberate:
                pass
            for caller in callers:
                caller.join(HANG)
                assert not caller.is_alive()

    def until_refused(self, portal: bridge.Portal) -> None:
        refused = threading.Event()

        def long_call() -> None:
            try:
                portal.call(asyncio.sleep, 3600)
            except bridge.LoopClosed:
                refused.set()
                raise

        while not refused.is_set():
            self.call("closed loop", long_call, bridge.LoopClosed)


async def _zip(results: Any, count: int) -> Any:
    """The first `count` of an async iterable, with their numbers."""
    number = 0
    async for result in results:
        yield result, number
        number += 1
        if number == count:
            return


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3 + 120)
def test_nothing_is_lost_in_a_minute_of_everything() -> None:
    soak = Soak()
    threads: list[threading.Thread] = []
    worst: list[str] = []

    async def main() -> None:
        portal = bridge.portal()
        threads.extend(threading.Thread(target=soak.thread, args=(n, portal)) for n in range(THREADS))
        threads.extend(threading.Thread(target=soak.loops_that_end, args=(n,)) for n in range(3))
        for thread in threads:
            thread.start()
        async with asyncio.TaskGroup() as tasks:
            for number in range(TASKS):
                tasks.create_task(soak.tasks(number))
            while not soak.over:
                await asyncio.sleep(0.5)
                worst.extend(soak.ledger.hanging())
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.05)
            worst.extend(soak.ledger.hanging())
            assert not worst
        await asyncio.sleep(0)

    bridge.run(main, executors={"one": bridge.ThreadExecutor(1), "few": bridge.ThreadExecutor(4)})

    assert not worst
    soak.ledger.settle()
    assert soak.callbacks_run == soak.callbacks_sent
    assert all(soak.ledger.asked[kind] for kind in ("run", "chain", "cancel", "abandon", "closed loop", "future"))
    left = [thread for thread in threading.enumerate() if thread.name.startswith(("bridge", "ThreadExecutor"))]
    assert [thread for thread in left if not comes_and_goes(thread)] == []
    print(dict(soak.ledger.asked), dict(soak.ledger.ended))
