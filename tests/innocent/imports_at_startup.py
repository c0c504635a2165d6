# prints: 300 modules
"""The first thing that main does is to import the rest of the program, which takes a while."""

import importlib
import sys
import tempfile
from pathlib import Path

import bridge

MODULE = """
from dataclasses import dataclass
import time

@dataclass
class Row{number}:
    name: str
    size: int = 0

time.sleep(0.002)  # so that it takes long on every machine
"""


async def main():
    import package

    print(len(package.modules), "modules")


with tempfile.TemporaryDirectory() as folder:
    Path(folder, "package").mkdir()
    for number in range(300):
        Path(folder, "package", f"part{number}.py").write_text(MODULE.format(number=number))
    lines = [f"from package import part{number}" for number in range(300)]
    Path(folder, "package", "__init__.py").write_text(
        "\n".join(lines) + "\nmodules = [n for n in dir() if n[:4] == 'part']\n"
    )
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    bridge.run(main)
