"""What a worker process has open on a loop: async context managers, iterations. The loop's side of it.

A session is one task on the loop (`bridge.threads.session`); the worker's requests are put to it one after another, and
no thread blocks for them. If the worker dies, what it has entered is left by an error, and what it iterates is closed.
"""

from __future__ import annotations

from typing import Any

from bridge.threads.session import Scope


class Entered(Scope[Any]):
    """An async context manager that a worker enters."""

    async def leave_by(self, error: BaseException | None) -> bool:
        """End the block; true if it suppresses the error."""
        if error is None:
            return bool(await self.leave(None, None, None))
        try:
            return bool(await self.leave(type(error), error, error.__traceback__))
        except BaseException as raised:
            if raised is error:  # the worker has the original
                return False
            raise
