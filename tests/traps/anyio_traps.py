"""Likewise with anyio's plugin, on every loop."""

import time

import anyio
import pytest
import uvloop

import bridge

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"loop_factory": bridge.new_event_loop}), id="bridge"),
        pytest.param(("asyncio", {"loop_factory": uvloop.new_event_loop}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request):
    return request.param


async def fetch():
    return "row"


@pytest.fixture
async def connection():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        yield "connection"
        tasks.cancel_scope.cancel()


async def test_blocks(connection):
    time.sleep(1.5)  # <- BRG101


async def test_blocks_for_less_than_the_environment_allows(connection):
    time.sleep(0.2)


async def test_does_not_block(connection):
    await anyio.to_thread.run_sync(time.sleep, 0.01)


async def test_forgets_a_coroutine():
    fetch()  # <- BRG201


async def test_awaits_it():
    await fetch()
