"""trio's runs during a test are watched: `trio.run`, and guest runs, of which anyio's plugin makes use.

    setup_runner ── Watch ── resume ── the run, in whatever steps ── after_run (an Instrument) ──> pause ── close

Nurseries need no look: no task outlives them. Where trio's private part is not as we know it, nothing is watched.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from bridge.diagnostics.switch import first_threshold
from bridge.loop.watch.views import TrioView
from bridge.loop.watch.watching import Watch
from bridge.strict.patches import Patches
from bridge.threads.loaded import from_loaded


def watch_trio(patches: Patches) -> None:
    """From now on, if trio is loaded."""
    if from_loaded("trio._core._run", "unrolled_run") is not None:
        runs = import_module("trio._core._run")
        patches.replace(runs, "setup_runner", lambda original: _setting_up(patches, original))


def _setting_up(patches: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    trio = import_module("trio")

    class Watching(trio.abc.Instrument):  # type: ignore[misc, name-defined, unused-ignore]
        """Ends the watch with the run."""

        def __init__(self, watch: Watch):
            self._watch = watch

        def after_run(self) -> None:
            self._watch.pause()
            self._watch.close()

    def setup_runner(*args: Any, **kwargs: Any) -> Any:
        runner = original(*args, **kwargs)
        if patches.active:
            watch = Watch(TrioView(first_threshold()))
            trio.lowlevel.add_instrument(Watching(watch))
            watch.resume()
        return runner

    return setup_runner
