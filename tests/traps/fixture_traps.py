"""Likewise: what fixtures start, and end, and do not end."""

import asyncio
import concurrent.futures
import threading
import time
import unittest

import pytest

import bridge


class Service:
    """A thread that somebody has to stop."""

    def __init__(self):
        self._stop = threading.Event()
        self._threads = []

    def start(self):
        self._threads.append(threading.Thread(target=self._stop.wait, daemon=True))
        self._threads[-1].start()  # <- BRG502 is told of this line

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


async def wait():
    await asyncio.Event().wait()


async def leave_a_task():
    return asyncio.create_task(wait())


@pytest.fixture(scope="module")
def of_the_module():
    service = Service()
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def executor():
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def portal():
    with bridge.background_loop(loop_factory=asyncio.new_event_loop) as portal:
        portal.call(leave_a_task)
        yield portal


@pytest.fixture(scope="module")
def pools():
    with (
        bridge.ThreadExecutor(1) as threads,
        bridge.ProcessExecutor(1) as processes,
        concurrent.futures.ProcessPoolExecutor(1) as stock,
        bridge.ForeignExecutor(concurrent.futures.ThreadPoolExecutor(1), owns=True) as foreign,
    ):
        yield threads, processes, stock, foreign


@pytest.fixture
def service():
    service = Service()
    yield service
    service.stop()


@pytest.fixture
def careless():
    return Service()


@pytest.fixture
def forgetful():
    yield
    wait()


def test_what_the_module_has_may_stay(of_the_module, executor, portal):
    executor.submit(int).result()
    assert portal.call(asyncio.sleep, 0, "awake") == "awake"


def test_what_the_fixture_ends_is_no_leak(service):
    service.start()


def test_what_nobody_ends_is_one(careless):  # ERROR or failure: BRG502
    careless.start()


def test_a_task_on_the_loop_of_the_module_is_left(portal):
    portal.call(leave_a_task)  # BRG502


def test_the_next_one_is_not_blamed_for_it(portal):
    assert portal.call(asyncio.sleep, 0, "awake") == "awake"


def test_what_a_fixture_forgets_is_the_error_of_its_test(forgetful):  # BRG201
    pass


def test_pytest_has_fixtures_too(tmp_path, monkeypatch, capsys):
    Service().start()  # BRG502


class TestCase(unittest.IsolatedAsyncioTestCase):
    async def test_leaves_a_task(self):
        asyncio.create_task(wait())  # BRG502

    async def test_leaves_none(self):
        await asyncio.sleep(0)


def test_the_loop_of_the_module_is_blocked_beyond_the_end(portal):
    portal.call_soon_threadsafe(time.sleep, 2)  # BRG101


def test_the_next_one_is_not_blamed_for_that_either(portal):
    assert portal.call(asyncio.sleep, 0, "awake") == "awake"


def test_pools_of_the_module_may_start_their_threads_later(pools):
    for pool in pools:
        assert pool.submit(int).result() == 0


def test_pools_that_are_closed_are_gone():
    for kind in (bridge.ThreadExecutor, bridge.ProcessExecutor, concurrent.futures.ThreadPoolExecutor):
        with kind(1) as pool:
            assert pool.submit(int).result() == 0
