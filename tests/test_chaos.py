"""A minute in which worker processes are killed at random: every job is accounted for, nothing runs twice or stays.

Seeded by BRIDGE_SOAK_SEED (default 1), as long as BRIDGE_SOAK_SECONDS (default 60). Jobs of every kind run on four
workers: they are cancelled, time out, stream, call back, crash, and some cannot be pickled. Each first appends its number
to a file, in one write, so that the file tells which functions have begun, and how often. A killer goes about meanwhile.
"""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import gc
import itertools
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import Any

import chaos_targets as chaos
import numpy as np
import process_targets as targets
import psutil
import pytest
from process_targets import Deliberate, Tally

import bridge
from tests.processes import children, descriptors, no_thread_left, shared_mappings, shared_names, tally  # noqa: F401

SECONDS = float(os.environ.get("BRIDGE_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("BRIDGE_SOAK_SEED", "1"))
TASKS = 24
WORKERS = 4
#: No single job here has reason to take this long, whatever the machine is doing.
HANG = 45.0

#: How often a function that ended so has written its number: exactly once, or not more than once.
ONCE = {"returned", "raised"}
AT_MOST_ONCE = {"died", "cancelled", "timed out", "left"}
NEVER = {"not pickled"}
#: What must have happened at least once of each kind.
EACH = {
    **dict.fromkeys(("short", "longer", "async", "chain", "iterate", "stream", "array", "map", "future"), "returned"),
    **dict.fromkeys(("kill", "wait", "abandon", "cancelled_chain"), "cancelled"),
    **dict.fromkeys(("fail", "bad_result"), "raised"),
    "timeout": "timed out",
    "bad_argument": "not pickled",
    "crash": "died",
}


class Ledger:
    """What was asked for and what came of it; the functions' own account is in the tally."""

    def __init__(self, tally: Tally):
        self.tally = tally
        self.open: dict[str, float] = {}
        self.ended: dict[str, str] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def ask(self, kind: str) -> str:
        with self._lock:
            ident = f"{kind.replace(' ', '_')}-{next(self._numbers)}"
            self.open[ident] = time.monotonic()
        return ident

    def end(self, ident: str, how: str) -> None:
        with self._lock:
            del self.open[ident]
            assert ident not in self.ended
            self.ended[ident] = how

    def hanging(self) -> list[str]:
        now = time.monotonic()
        with self._lock:
            return [ident for ident, since in self.open.items() if now - since > HANG]

    def settle(self) -> Counter[tuple[str, str]]:
        """Every job ended, in a way it may end, and ran as often as that says."""
        assert not self.open
        ran = self.tally.count()
        problems: list[Any] = sorted(set(ran) - set(self.ended))
        for ident, how in self.ended.items():
            times = ran[ident]
            right = (how in ONCE and times == 1) or (how in AT_MOST_ONCE and times <= 1) or (how in NEVER and times == 0)
            if not right:
                problems.append((ident, how, times))
        if problems:
            pytest.fail("\n".join([f"{len(problems)} of {len(self.ended)} jobs:", *map(str, problems[:30])]))
        return Counter((ident.partition("-")[0], how) for ident, how in self.ended.items())


# -- the crowd -----------------------------------------------------------------------------------------------------------


class Chaos:
    def __init__(self, executor: bridge.ProcessExecutor, tally: Tally):
        self.executor = executor
        self.tally = tally
        self.ledger = Ledger(tally)
        self.begin = time.monotonic()
        self.killed = 0
        targets.at_home["executor"] = executor

    @property
    def over(self) -> bool:
        return time.monotonic() - self.begin > SECONDS

    async def tasks(self, number: int) -> None:
        dice = random.Random(f"{SEED}/task/{number}")
        run, some = self.executor.run, dice.random
        quick = bridge.offload(to=self.executor, timeout=0.03)(chaos.deaf)
        patient = bridge.offload(to=self.executor, cancel="wait")(chaos.work)
        careless = bridge.offload(to=self.executor, cancel="abandon")(chaos.work)
        short: Callable[[], Awaitable[None]] = lambda: self.expect("short", lambda i: run(chaos.work, self.tally, i))  # noqa: E731
        acts: list[Callable[[], Awaitable[None]]] = [
            *[short] * 10,
            lambda: self.expect("longer", lambda i: run(chaos.work, self.tally, i, some() / 50)),
            lambda: self.expect("fail", lambda i: run(chaos.work, self.tally, i, 0, targets.fail), "raised"),
            lambda: self.expect("async", lambda i: run(chaos.work_async, self.tally, i, some() / 100)),
            lambda: self.expect("timeout", lambda i: quick(self.tally, i, some() / 15), "timed out"),
            lambda: self.cancelled("kill", lambda i: run(chaos.deaf, self.tally, i, some() / 20), dice),
            lambda: self.cancelled("wait", lambda i: patient(self.tally, i, some() / 20), dice),
            lambda: self.cancelled("abandon", lambda i: careless(self.tally, i, some() / 20), dice),
            lambda: self.cancelled("cancelled chain", lambda i: self.chain(i, 2), dice),
            lambda: self.expect("chain", lambda i: self.chain(i, dice.randrange(3))),
            lambda: self.expect("iterate", lambda i: self.iterate(i, dice.randrange(20))),
            lambda: self.expect("stream", lambda i: self.stream(i, dice.randrange(1, 60))),
            lambda: self.expect("array", self.array),
            lambda: self.expect(
                "bad argument", lambda i: run(chaos.work, self.tally, i, 0, threading.Lock()), "not pickled"
            ),
            lambda: self.expect("bad result", lambda i: run(chaos.unpicklable, self.tally, i), "raised"),
            lambda: self.expect("crash", lambda i: run(chaos.work, self.tally, i, 0, targets.crash), "died"),
            lambda: self.map_some(dice.randrange(1, 20)),
        ]
        while not self.over:
            await dice.choice(acts)()

    async def expect(self, kind: str, make: Callable[[str], Awaitable[Any]], *how: str) -> None:
        ident = self.ledger.ask(kind)
        ended = "wrong: lost"
        try:
            result = await make(ident)
            ended = "returned" if result == ident else f"wrong: {result!r}"
        except Deliberate:
            ended = "raised"
        except pickle.PicklingError:
            ended = "raised" if kind == "bad result" else "not pickled"
        except bridge.OffloadTimeout:
            ended = "timed out"
        except bridge.WorkerDied:
            ended = "died"  # killers are about
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        except Exception as error:
            ended = f"wrong: {error!r}"
        finally:
            allowed = ("died", "cancelled", *(how or ("returned",)), *(("returned",) if "timed out" in how else ()))
            self.ledger.end(ident, ended if ended in allowed else f"wrong: {ended}")

    async def cancelled(self, kind: str, make: Callable[[str], Awaitable[Any]], dice: random.Random) -> None:
        task = asyncio.ensure_future(self.expect(kind, make))
        await asyncio.sleep(dice.choice((0, dice.random() / 100, dice.random() / 20)))
        task.cancel()
        if dice.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])

    async def chain(self, ident: str, depth: int) -> str:
        assert await self.executor.run(chaos.chain, self.tally, ident, depth) == depth
        return ident

    async def iterate(self, ident: str, count: int) -> str:
        async def items() -> AsyncIterator[int]:
            for number in range(count):
                await asyncio.sleep(0)
                yield number

        assert await self.executor.run(chaos.consume, self.tally, ident, items()) == list(range(count))
        return ident

    async def stream(self, ident: str, count: int) -> str:
        seen = []
        async with aclosing(self.executor.stream(chaos.numbers, self.tally, ident, 50, in_flight=4)) as items:
            async for number in items:
                seen.append(number)
                if len(seen) == count:
                    break
        assert seen == list(range(min(count, 50)))
        return ident

    async def array(self, ident: str) -> str:
        array = np.arange(100_000)
        back = await self.executor.run(chaos.look_at, self.tally, ident, array)
        assert (int(array[0]), int(back[0]), int(back[-1])) == (0, 1, 100_000)
        return ident

    async def map_some(self, count: int) -> None:
        """Each item is a job of its own in the ledger; those not taken may have run or not."""
        idents = [self.ledger.ask("map") for _ in range(count)]
        left, how = list(idents), "left"
        try:
            async with aclosing(
                self.executor.amap(chaos.work, itertools.repeat(self.tally), idents, in_flight=5)
            ) as results:
                async for result in results:
                    self.ledger.end(result, "returned" if result == left.pop(0) else "wrong: order")
                    if len(left) == count // 3:
                        break
        except bridge.WorkerDied:
            how = "died"
        except Exception as error:
            how = f"wrong: {error!r}"
        for ident in left:
            self.ledger.end(ident, how)

    # -- around it -----------------------------------------------------------------------------------------------------

    def thread(self, number: int) -> None:
        """Jobs that no loop has sent."""
        dice = random.Random(f"{SEED}/thread/{number}")
        while not self.over:
            ident, how = self.ledger.ask("future"), "wrong: lost"
            future = self.executor.submit(chaos.work, self.tally, ident, dice.random() / 100)
            try:
                if dice.random() < 0.3 and future.cancel():
                    how = "cancelled"
                else:
                    how = "returned" if future.result(HANG) == ident else "wrong: result"
            except CancelledError:
                how = "cancelled"
            except bridge.WorkerDied:
                how = "died"
            except BaseException as error:
                how = f"wrong: {error!r}"
            finally:
                self.ledger.end(ident, how)
            time.sleep(dice.random() / 50)

    def killer(self) -> None:
        dice = random.Random(f"{SEED}/killer")
        while not self.over:
            time.sleep(0.05 + dice.random() / 2)
            workers = self.executor.statistics().workers
            if workers:
                try:
                    os.kill(dice.choice(workers).pid, dice.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)))
                    self.killed += 1
                except ProcessLookupError:
                    pass


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / (1 << 20)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3 + 180)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_minute_of_crashes_loses_nothing_and_leaves_nothing(tally: Tally) -> None:
    figures: list[float] = []
    stuck: list[str] = []

    async def main() -> Chaos:
        async with bridge.ProcessExecutor(WORKERS, name="chaos", grace=0.05, idle_timeout=1.0) as executor:
            crowd = Chaos(executor, tally)
            threads = [threading.Thread(target=crowd.killer)]
            threads += [threading.Thread(target=crowd.thread, args=(n,)) for n in range(2)]
            for thread in threads:
                thread.start()
            async with asyncio.TaskGroup() as tasks:
                for number in range(TASKS):
                    tasks.create_task(crowd.tasks(number))
                while crowd.ledger.open or not crowd.over:
                    await asyncio.sleep(SECONDS / 120)
                    figures.append(resident())
                    stuck.extend(crowd.ledger.hanging())
                    assert not stuck
            while any(thread.is_alive() for thread in threads):
                await asyncio.sleep(0.01)
            assert len({await executor.run(targets.echo, n) for n in range(10)}) == 10
            return crowd

    async def warm_up() -> None:
        async with bridge.ProcessExecutor(1) as executor:
            await executor.run(chaos.look_at, tally, "warm", np.arange(100_000))

    bridge.run(warm_up)
    os.unlink(tally.path)
    gc.collect()
    before = children(), descriptors(), shared_mappings(), shared_names()
    crowd = bridge.run(main)

    ends = crowd.ledger.settle()
    print(f"killed {crowd.killed}", dict(ends), f"memory {figures[0]:.0f}, {max(figures):.0f} MiB")
    assert crowd.killed > SECONDS / 4
    assert sum(n for (_, how), n in ends.items() if how == "died") > 10
    for kind, how in EACH.items():
        assert ends[kind, how], f"no {kind} {how}"
    settled, last = figures[len(figures) // 3 : len(figures) // 2], figures[-10:]
    accounts = 400 * len(crowd.ledger.ended) / (1 << 20)  # the ledger itself
    assert min(last) - max(settled) < 30 + accounts, f"memory grew: {figures[:: len(figures) // 10]}"
    del crowd
    give_up = time.monotonic() + 20
    while (after := (children(), descriptors(), shared_mappings(), shared_names())) != before:
        assert time.monotonic() < give_up, [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        gc.collect()
        time.sleep(0.05)
