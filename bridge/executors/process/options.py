"""What a ProcessExecutor was told, checked once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from loky import cpu_count

from bridge.executors.process.wire.context import Spec

#: Variables by which numerical libraries learn how many threads they may start.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Options:
    """See `ProcessExecutor`. Seconds and bytes."""

    max_workers: int
    name: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_tasks_per_child: int | None
    memory_limit: int | None
    idle_timeout: float
    grace: float
    queue_limit: float
    max_lent: int
    env: Mapping[str, str]
    context_vars: tuple[ContextVar[Any], ...]
    #: Where the workers find them.
    context_specs: tuple[Spec, ...]

    def environment(self) -> dict[str, str]:
        """What a worker's environment has besides the parent's: no more threads in all than there are cores."""
        share = str(max(1, int(cpu_count()) // self.max_workers))
        held = {name: share for name in THREAD_VARIABLES if name not in os.environ}
        return {**held, **self.env}


def whole_number(name: str, value: object, unit: str) -> int:
    """`value`, if it is a positive whole number. Raises TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of {unit}, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be greater than 0, not {value}")
    return value
