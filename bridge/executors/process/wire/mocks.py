"""Objects of `unittest.mock`, which have a class of their own each: most cannot be pickled, or not be rebuilt.

In: an object that could not be pickled, or the module of what could not rebuild one. Out: what to write instead.
"""

from __future__ import annotations

from bridge.threads.loaded import from_loaded

#: The standard library's, and the package of that name, which is the same for other versions of Python.
_MODULES = ("unittest.mock", "mock.mock")

#: What to write instead.
INSTEAD = (
    "mocks are not made for pickle, and in another process their calls would not be seen from here. "
    "Hand over a plain function, or a plain object, in its place."
)


def is_mock(obj: object) -> bool:
    """Return whether `obj` is a mock. Its type says so: a mock has every attribute."""
    kinds = (from_loaded(module, "NonCallableMock") for module in _MODULES)
    return any(isinstance(kind, type) and issubclass(type(obj), kind) for kind in kinds)


def is_of_mocks(module: str) -> bool:
    """Return whether a module is where mocks are defined."""
    return module in _MODULES
