"""Every exception that bridge raises of its own accord.

Each one also derives from the built-in that existing code already catches (RuntimeError, TimeoutError, ...), so that
putting bridge under a program changes none of its `except` clauses.
"""


class BridgeError(Exception):
    """Base of all errors raised by bridge itself, never by the functions it runs."""


class LoopClosed(BridgeError, RuntimeError):
    """The loop that should have answered stopped, was closed, or was left behind by a fork."""


class WouldDeadlock(BridgeError, RuntimeError):
    """A blocking call that could never end, because what it waits for needs the very thread that waits."""


class WrongThread(BridgeError, RuntimeError):
    """The call needs an event loop that this thread does not run, or would block one that it does run."""


class ExecutorClosed(BridgeError, RuntimeError):
    """The executor was shut down, or left behind by a fork, before the function could start."""


class UnknownLane(BridgeError, LookupError):
    """`to=` names a lane that this loop does not have."""


class OffloadTimeout(BridgeError, TimeoutError):
    """A function did not end within its `timeout=`; the message says how long it waited and how long it ran."""
