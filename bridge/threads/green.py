"""Can a thread be started here, and would it be a real one?

gevent and eventlet replace threads, and sockets, of a whole process by parts of their own event loop.

In: the start of a thread, or of a process executor. Out: an error, before anything has begun that could not go on. A
"thread" of theirs shares the thread of the event loop: the first wait in it would stop that loop, and with it whatever
was to end the wait. That one of them is merely imported, or has replaced other things, changes nothing.

While the interpreter shuts down no other thread runs Python code: one that a finalizer starts would never begin.
"""

from __future__ import annotations

import sys

from bridge.threads.loaded import from_loaded

_modules = sys.modules
#: A part of the standard library, as gevent and as eventlet call it.
_PARTS = {"thread": ("threading", "thread"), "socket": ("socket", "socket")}


def _replaced_by(part: str) -> str | None:
    """The library that has replaced `part`, "thread" or "socket", in this process; None if it is as Python made it."""
    gevents, eventlets = _PARTS[part]
    is_patched = from_loaded("gevent.monkey", "is_module_patched")
    if is_patched is not None and is_patched(gevents):
        return "gevent"
    is_patched = from_loaded("eventlet.patcher", "is_monkey_patched")
    if is_patched is not None and is_patched(eventlets):
        return "eventlet"
    return None


def require_threads(what: str, *parts: str) -> None:
    """Raise RuntimeError if `what` could not have real threads.

    So if gevent or eventlet has replaced one of `parts` ("thread", "socket"), and while the interpreter shuts down.
    """
    if "gevent.monkey" not in _modules and "eventlet.patcher" not in _modules and not sys.is_finalizing():
        return  # every new thread comes here
    if sys.is_finalizing():
        raise RuntimeError(f"the interpreter is shutting down, and {what} can start no thread any more. Use it earlier.")
    for part in parts:
        library = _replaced_by(part)
        if library is not None:
            patch = "gevent.monkey.patch_all" if library == "gevent" else "eventlet.monkey_patch"
            without = ", ".join(f"{each}=False" for each in parts)
            raise RuntimeError(
                f"{library} has replaced the {part}s of this process by its own, and {what} needs real ones: "
                f"it would wait for ever. Write {patch}({without}), or use bridge in a process that is not patched."
            )
