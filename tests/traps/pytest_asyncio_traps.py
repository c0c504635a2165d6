"""Likewise with pytest-asyncio."""

import asyncio
import time

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio


async def fail():
    raise ValueError("nobody looks")


async def wait():
    await asyncio.Event().wait()


@pytest_asyncio.fixture
async def connection():
    task = asyncio.create_task(wait())
    yield "connection"
    task.cancel()


async def test_blocks(connection):
    time.sleep(1.5)  # <- BRG101


async def test_does_not_block(connection):
    await asyncio.to_thread(time.sleep, 0.01)


async def test_leaves_a_task():
    asyncio.create_task(wait())  # <- BRG502


async def test_loses_an_exception():
    asyncio.create_task(fail())  # <- BRG202
    await asyncio.sleep(0.01)


@pytest.mark.asyncio(loop_scope="module")
async def test_leaves_a_task_on_a_loop_that_stays():
    asyncio.create_task(wait())  # <- BRG502


@pytest.mark.asyncio(loop_scope="module")
async def test_is_on_the_same_loop():
    await asyncio.sleep(0)
