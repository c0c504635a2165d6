"""What pytest's fixtures may still do to what a test has started.

In: fixtures and items, some of it private to pytest. Out: yes or no; where pytest is not as we know it, the careful
answer.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

#: Whose fixtures end nothing that a test has started, but for the loop.
_OTHERS = ("_pytest.", "pytest_asyncio.", "anyio.")
#: Those that call the test's own functions and methods.
_CALL_BACK = ("_xunit", "_unittest")


def remain(item: pytest.Item) -> bool:
    """When the test has run: has it fixtures of its own whose teardown may still end what it has started?"""
    try:
        finalizers, _ = item.session._setupstate.stack[item]
        if len(finalizers) == 1:  # the item's own
            return False
        fixtures = item._request._fixture_defs.values()  # type: ignore[attr-defined]
        return any(each.scope == "function" and may_end_something(each) for each in fixtures)
    except (AttributeError, KeyError, TypeError, ValueError):
        return True


def may_end_something(fixture: pytest.FixtureDef[Any]) -> bool:
    """Has it a teardown that is not known to be harmless?"""
    function = inspect.unwrap(fixture.func)
    if function.__module__.startswith(_OTHERS) and not fixture.argname.startswith(_CALL_BACK):
        return False
    yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return yields or "request" in fixture.argnames
