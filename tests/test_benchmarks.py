"""The benchmarks' own arithmetic, and the served request, which must end whatever happens."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import bridge
from tests.conftest import PATIENCE


def find_benchmarks() -> None:
    """They are no part of what is installed, and their folder's parent must not be on the path: it has the sources."""
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location("benchmarks", folder / "__init__.py")
    assert spec is not None
    sys.modules.setdefault("benchmarks", importlib.util.module_from_spec(spec))


find_benchmarks()

from benchmarks import served_client  # noqa: E402
from benchmarks.measure import (  # noqa: E402
    Case,
    Judged,
    Section,
    SectionResult,
    Target,
    judge,
    middle_half,
    run_section,
)

#: Rounds in which the machine is slow and fast: the ratios stay 2, but for one that is 8.
OFF, ON = [1.0, 10.0, 2.0, 1.0], [2.0, 20.0, 4.0, 8.0]


def measured(*, paired: bool) -> SectionResult:
    """What comes out if two cases take these times."""

    def played(name: str, figures: list[float]) -> Case:
        left = iter(figures)
        return Case(name, "", lambda: next(left))

    section = Section("one", "us", [played("off", OFF), played("on", ON)], reference="off", paired=paired)
    return run_section(section, len(OFF), lambda text: None)


def judged(*, paired: bool) -> Judged:
    target = Target("on, times off", "one", "on", 2.0, other="off", limit=True)
    return judge(target, [measured(paired=paired)])


def test_in_pairs_the_ratios_of_the_rounds_are_judged_with_their_middle_half() -> None:
    assert judged(paired=True) == Judged(judged(paired=True).target, 2.0, "met", (2.0, 3.5))


def test_otherwise_the_medians_are() -> None:
    found = judged(paired=False)
    assert (found.measured, found.status, found.spread) == (4.0, "UNMET", None)


def test_one_round_has_no_spread() -> None:
    assert middle_half([3.0]) == (3.0, 3.0)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the client's end, the server's."""
    client, server = socket.socketpair()
    client.settimeout(PATIENCE)
    with client, server:
        yield client, server


ANSWER = b"HTTP/1.1 200 OK\r\n\r\n" + served_client.BODY


def test_an_answer_may_come_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    server.sendall(ANSWER[:7])
    server.sendall(ANSWER[7:])
    served_client.read_answer(client)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"", "closed the connection"), (ANSWER[:-1], "closed the connection"), (b"500 " + ANSWER, "not the answer")],
)
def test_no_answer_or_another_one_is_an_error(
    answer: bytes, message: str, ends: tuple[socket.socket, socket.socket]
) -> None:
    client, server = ends
    server.sendall(answer)
    server.close()
    with pytest.raises(ConnectionError, match=message):
        served_client.read_answer(client)


def test_requests_are_served_and_the_server_ends() -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("httptools")
    from benchmarks import served

    try:
        with closing(bridge.new_event_loop()) as loop:
            assert loop.run_until_complete(served.serve(None, 32)) > 0
    finally:
        served.client().close()
        served.client.cache_clear()


def test_a_client_that_gives_up_is_an_error_and_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("httptools")
    from benchmarks import served

    monkeypatch.setattr(served, "LIMIT", 0.5)
    monkeypatch.setattr(served.Client, "ask", lambda self, port, rounds: None)
    try:
        with closing(bridge.new_event_loop()) as loop, pytest.raises(TimeoutError):
            loop.run_until_complete(served.serve(None, 32))
    finally:
        served.client().close()
        served.client.cache_clear()
