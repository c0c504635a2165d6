"""What makes a test fail in which something went wrong with loops, threads or tasks. Start reading at `plugin`.

The entry point imports this in every run of pytest, so it imports nothing itself.
"""

from __future__ import annotations

#: The marker that makes a test strict.
MARKER = "bridge_strict"
