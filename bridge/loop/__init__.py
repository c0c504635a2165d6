"""The loop room: bridge's own event loop, a host for every loop there is, and the runners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.loop.event_loop import EventLoop as EventLoop

__all__ = ["EventLoop"]


def __getattr__(name: str) -> Any:
    if name == "EventLoop":
        from bridge.loop.event_loop import EventLoop

        return EventLoop
    raise AttributeError(f"module 'bridge.loop' has no attribute {name!r}")
