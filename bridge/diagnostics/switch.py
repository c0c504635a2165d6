"""Whether diagnostics are on: always, unless somebody says otherwise."""

from __future__ import annotations

import os

#: Set to 0 in the environment to turn off what is on by default.
VARIABLE = "BRIDGE_DIAGNOSTICS"


def wanted(explicitly: bool | None = None) -> bool:
    """What the caller said (True or False), otherwise what the environment says, otherwise True."""
    if explicitly is not None:
        return explicitly
    return os.environ.get(VARIABLE, "1").strip().lower() not in ("0", "off", "false", "no")
