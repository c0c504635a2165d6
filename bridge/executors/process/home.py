"""Where a crew lives: the event loop on whose thread all its state is touched, and that watches its descriptors.

A Home is made for one loop. When the crew has moved to another one, it forgets what it has watched in its own thread, and
perhaps later; until then those descriptors stay open (`Lifelines`), so that no other can get their numbers.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Callable
from typing import Any

from bridge.errors import LoopClosed
from bridge.executors.process.launch import Lifelines
from bridge.loop.asyncio_host import AsyncioHost
from bridge.loop.event_loop import EventLoop
from bridge.loop.loop_thread import LoopThread


class Home:
    """An asyncio loop that a crew lives on. Used, but for `leave`, on the loop's own thread."""

    #: Is it there for the crew alone, so that none of its users can block it?
    own = False

    def __init__(self, host: AsyncioHost, when_it_ends: Callable[[Home], object]):
        self.host: AsyncioHost = host
        self.loop: AbstractEventLoop = host.loop
        self._watched: dict[int, Lifelines] = {}
        self._when_it_ends = when_it_ends
        #: Does it watch what the crew has to do with?
        self.begun: bool = False

    def __repr__(self) -> str:
        return f"<Home on {self.host!r}>"

    def move_in(self) -> None:
        """From now on notice the loop's end. On the loop's thread."""
        self.host.at_end(self._ended)
        self.begun = True

    def _ended(self) -> None:
        self.host.when_closed.discard(self._ended)
        when_it_ends, self._when_it_ends = self._when_it_ends, _nothing
        try:
            when_it_ends(self)
        finally:
            self._forget_all()

    @property
    def is_here(self) -> bool:
        """Is the calling thread the loop's, and running it?"""
        return _get_running_loop() is self.loop

    @property
    def is_gone(self) -> bool:
        return self.loop.is_closed() or self.host.closed is not None

    def watch(self, lines: Lifelines, descriptor: int, callback: Callable[..., object], *args: Any) -> None:
        """Have `callback(*args)` called whenever `descriptor`, of those `lines`, is readable. Raises OSError."""
        lines.watch(self, descriptor)
        self._watched[descriptor] = lines
        self.loop.add_reader(descriptor, callback, *args)

    def watch_writable(self, descriptor: int, callback: Callable[..., object], *args: Any) -> None:
        """Likewise when it is writable, for a descriptor that is watched already."""
        self.loop.add_writer(descriptor, callback, *args)

    def unwatch_writable(self, descriptor: int) -> None:
        self.loop.remove_writer(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Watch it no longer; harmless if it is not watched."""
        lines = self._watched.pop(descriptor, None)
        if lines is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(descriptor)
                self.loop.remove_writer(descriptor)
            lines.unwatch(self, descriptor)

    def leave(self) -> None:
        """The crew has moved out. From any thread."""
        self._when_it_ends = _nothing
        try:
            self.host.call_soon(self._forget_all, ())
        except LoopClosed:
            self._forget_all()

    def _forget_all(self) -> None:
        self.host.when_closed.discard(self._ended)
        for descriptor in list(self._watched):
            self.unwatch(descriptor)

    def end(self) -> None:
        """The crew is gone for good, or for now; on the loop's thread."""
        self.leave()


class BackgroundHome(Home):
    """A loop in a thread of its own, for users that have no asyncio loop, or more than one. Its name is an executor's."""

    own = True

    def __init__(self, name: str, when_it_ends: Callable[[Home], object]):
        self._thread = LoopThread(f"{name}-loop")
        host = self._thread.start()
        assert isinstance(host, AsyncioHost)
        assert isinstance(host.loop, EventLoop)
        host.loop.serves = name
        super().__init__(host, when_it_ends)

    def __del__(self) -> None:
        # Whoever made it was interrupted before the crew lived here.
        thread = self.__dict__.get("_thread")
        if thread is not None:
            thread.abandon()

    def end(self) -> None:
        """Let the loop go; from any thread. It ends when it has done what it is at."""
        super().end()
        self._thread.let_go()


def _nothing(home: Home) -> None: ...
