"""`python -m bridge`: explain, and run, which must be to a script what `python` is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.diagnostics.catalogue import CATALOGUE
from bridge.diagnostics.explain import UnknownCode, page
from tests.conftest import PATIENCE

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


def python(*args: str | Path, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", *args],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={name: each for name, each in os.environ.items() if not name.startswith(("PYTHONASYNCIO", "BRIDGE_"))} | env,
        timeout=6 * PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def bridge(*args: str | Path, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "bridge", *args, cwd=cwd, code=code, **env)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_prints_the_page(tmp_path: Path) -> None:
    done = bridge("explain", "BRG101", cwd=tmp_path)
    assert done.stdout == page("BRG101")
    assert done.stdout.startswith("# BRG101: the loop is blocked\n")
    assert not done.stderr


@pytest.mark.parametrize("typed", ["brg404", " BRG404 ", "404"])
def test_explain_reads_a_code_as_people_type_it(typed: str) -> None:
    assert page(typed) == page("BRG404")


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_can_be_explained(code: str) -> None:
    assert page(code).startswith(f"# {code}: {CATALOGUE[code].title}\n")


def test_explain_without_a_code_lists_all_with_their_titles(tmp_path: Path) -> None:
    lines = bridge("explain", cwd=tmp_path).stdout.splitlines()
    assert lines[: len(CATALOGUE)] == [f"{each.code}  {each.title}" for each in CATALOGUE.values()]


def test_an_unknown_code_is_refused_with_those_that_are_close(tmp_path: Path) -> None:
    done = bridge("explain", "BRG1O4", cwd=tmp_path, code=2)
    assert done.stdout == ""
    assert "'BRG1O4' is no code of bridge. Did you mean BRG104" in done.stderr
    assert "python -m bridge explain" in done.stderr


def test_a_code_that_resembles_none_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownCode, match=r"^'xyz' is no code of bridge\. `python"):
        page("xyz")


# -- run: the loop -----------------------------------------------------------------------------------------------------

WHICH_LOOP = """
    import asyncio

    def name(loop):
        return type(loop).__module__

    async def main():
        return name(asyncio.get_running_loop())

    print(asyncio.run(main()))
    with asyncio.Runner() as runner:
        print(runner.run(main()))
    loop = asyncio.new_event_loop()
    print(loop.run_until_complete(main()))
    asyncio.set_event_loop(loop)
    print(name(asyncio.get_event_loop()))
    loop.close()
"""


def test_every_way_to_a_loop_leads_to_bridges(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write("script.py", WHICH_LOOP)
    assert set(python("script.py", cwd=tmp_path).stdout.split()) == {"asyncio.unix_events"} or sys.platform == "win32"
    assert set(bridge("run", "script.py", cwd=tmp_path).stdout.split()) == {"bridge.loop.event_loop"}


def test_where_asyncio_has_no_policies_every_way_leads_to_bridges(
    tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    """As in Python 3.16."""
    write("script.py", WHICH_LOOP)
    write(
        "without_policies.py",
        """
        import asyncio, runpy, sys

        for name in ("get_event_loop_policy", "set_event_loop_policy"):
            delattr(asyncio, name)
        sys.argv[:] = ["bridge", "run", "script.py"]
        runpy.run_module("bridge", run_name="__main__", alter_sys=True)
        """,
    )
    assert set(python("without_policies.py", cwd=tmp_path).stdout.split()) == {"bridge.loop.event_loop"}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="a loop is made out of nothing up to Python 3.13 only")
def test_a_loop_that_is_made_on_the_way_is_bridges(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write(
        "script.py",
        """
        import asyncio, warnings

        warnings.simplefilter("ignore")
        loop = asyncio.get_event_loop()
        print(type(loop).__module__)
        loop.close()
        """,
    )
    assert bridge("run", "script.py", cwd=tmp_path).stdout == "bridge.loop.event_loop\n"


@pytest.mark.parametrize(
    "choice",
    [
        "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)",
        pytest.param(
            "asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy()); asyncio.Runner()",
            marks=pytest.mark.skipif(sys.version_info >= (3, 16), reason="Python 3.16 has no policies"),
        ),
    ],
    ids=["loop_factory", "policy"],
)
def test_a_script_that_chooses_another_loop_gets_it(
    choice: str, tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    write(
        "script.py",
        f"""
        import asyncio, warnings

        async def main():
            print(type(asyncio.get_running_loop()).__module__)

        warnings.simplefilter("ignore")  # policies are deprecated
        {choice}.run(main())
        """,
    )
    assert bridge("run", "script.py", cwd=tmp_path).stdout.startswith("asyncio.")


@pytest.mark.parametrize("options", [[], ["--debug", "--threshold", "0.25"]])
def test_the_options_reach_each_loop(options: list[str], tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write(
        "script.py",
        """
        import asyncio
        import bridge

        async def main():
            loop = asyncio.get_running_loop()
            print(loop.get_debug(), loop.slow_callback_duration)

        asyncio.run(main())
        asyncio.run(main())
        bridge.run(main)
        """,
    )
    expected = "True 0.25\n" if options else "False 0.7\n"
    done = bridge("run", *options, "script.py", cwd=tmp_path, BRIDGE_SLOW_CALLBACK_DURATION="0.7")
    assert done.stdout == 3 * expected


@pytest.mark.parametrize("threshold", ["0", "-1", "soon", "nan", "inf"])
def test_a_threshold_that_is_no_duration_is_refused(threshold: str, tmp_path: Path) -> None:
    done = bridge("run", f"--threshold={threshold}", "script.py", cwd=tmp_path, code=2)
    assert "a number of seconds above 0 is needed" in done.stderr


def test_what_blocks_the_loop_is_reported(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write(
        "script.py",
        """
        import asyncio, time

        async def main():
            time.sleep(0.6)

        asyncio.run(main())
        """,
    )
    stderr = bridge("run", "--threshold", "0.2", "script.py", cwd=tmp_path).stderr
    assert stderr.startswith("BRG101 ")
    assert f"{tmp_path / 'script.py'}:5 in main: time.sleep(0.6)" in stderr.splitlines()[0]


def test_whoever_runs_a_script_so_wants_to_be_told(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write(
        "script.py",
        """
        import asyncio, os, time
        os.environ["BRIDGE_DIAGNOSTICS"] = "0"

        async def main():
            time.sleep(0.3)

        asyncio.run(main())
        """,
    )
    assert bridge("run", "script.py", cwd=tmp_path).stderr.startswith("BRG101 ")


def test_as_json_each_message_is_one_object_and_there_is_nothing_else(
    tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    write(
        "script.py",
        """
        import asyncio, logging, time

        logging.basicConfig(level=logging.WARNING)

        async def main():
            time.sleep(0.6)

        asyncio.run(main())
        """,
    )
    lines = bridge("run", "--json", "--threshold", "0.2", "script.py", cwd=tmp_path).stderr.splitlines()
    first = json.loads(lines[0])
    assert first["attributes"]["bridge.code"] == "BRG101"
    assert first["attributes"]["code.line.number"] == 7
    assert all(json.loads(line)["logger"].startswith("bridge.") for line in lines)


# -- run: the script ---------------------------------------------------------------------------------------------------

#: What a script can see of how it was started.
LOOK_AROUND = """
    import sys

    print(__name__, __spec__ and __spec__.name, __package__, type(__loader__).__name__, globals().get("__cached__"))
    print(sorted(globals().keys() - {"__annotations__"}))
    print(__file__, sys.argv, sys.path[0], type(__builtins__).__name__)
    print(sys.modules["__main__"].__dict__ is globals())
"""


def alike(*args: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What `python ...` and `python -m bridge run ...` do, which is the same."""
    plain, ours = python(*args, cwd=cwd, code=code), bridge("run", *args, cwd=cwd, code=code)
    assert ours.stdout == plain.stdout
    plain_lines = [line for line in plain.stderr.splitlines() if "<frozen runpy>" not in line]
    assert ours.stderr.splitlines() == plain_lines
    return ours


def test_a_script_finds_everything_as_usual(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write("inner/script.py", LOOK_AROUND)
    alike("inner/script.py", "--debug", "-m", "x", "--", "y", cwd=tmp_path)


@posix
def test_a_link_to_a_script_finds_everything_as_usual(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write("inner/script.py", LOOK_AROUND)
    (tmp_path / "link.py").symlink_to("inner/script.py")
    alike("link.py", cwd=tmp_path)


def test_modules_packages_folders_and_archives_find_everything_as_usual(
    tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    write("package/__init__.py", "print('package is imported')")
    write("package/module.py", LOOK_AROUND)
    main = write("package/__main__.py", LOOK_AROUND)
    alike("-m", "package.module", "--json", "x", cwd=tmp_path)
    alike("-m", "package", cwd=tmp_path)
    alike("package", "x", cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(main, "__main__.py")
    alike("archive.zip", "x", cwd=tmp_path)


END = {
    "returns": ("pass", 0),
    "exits": ("sys.exit(7)", 7),
    "exits with a message": ("sys.exit('not today')", 1),
    "raises": ("int('x')", 1),
    "raises in a chain": ("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError from error", 1),
    "raises with its own hook": ("sys.excepthook = lambda *args: print(args[0], args[2].tb_lineno)\nint('x')", 1),
    "does not compile": ("x = = 1", 1),
    "raises in a coroutine": ("import asyncio\nasync def main(): raise OSError('x')\nasyncio.run(main())", 1),
}


@pytest.mark.parametrize("how", END)
def test_a_script_ends_as_usual(how: str, tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    text, code = END[how]
    write("script.py", f"import sys\n{text}\n")
    alike("script.py", cwd=tmp_path, code=code)
    if how not in ("raises with its own hook", "does not compile"):  # those would see runpy's frames as well
        alike("-m", "script", cwd=tmp_path, code=code)


@posix
@pytest.mark.parametrize("text", ["raise KeyboardInterrupt", "import asyncio\nasyncio.run(main())"])
def test_a_script_is_interrupted_as_usual(text: str, tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    interrupt = "import os, signal\nasync def main(): os.kill(os.getpid(), signal.SIGINT)\n"
    write("script.py", interrupt + text)
    done = alike("script.py", cwd=tmp_path, code=-signal.SIGINT)
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_what_cannot_be_found_is_said_in_one_line(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    (tmp_path / "empty").mkdir()
    write("package/__init__.py", "")
    for args, message in {
        ("nothing.py",): f"can't open file {str(tmp_path / 'nothing.py')!r}: No such file or directory",
        ("empty",): "there is no __main__.py in 'empty'",
        ("-m", "nothing"): "no module named 'nothing'",
        ("-m", "package"): "no module named 'package.__main__'",
        ("-m", "package.nothing"): "no module named 'package.nothing'",
        ("-m", "nothing.at.all"): "no module named 'nothing'",
    }.items():
        assert bridge("run", *args, cwd=tmp_path, code=2).stderr == f"python -m bridge run: {message}\n"


def test_a_package_that_misses_another_one_shows_where(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    path = write("package/__init__.py", "import nothing")
    stderr = bridge("run", "-m", "package.module", cwd=tmp_path, code=1).stderr
    assert f'File "{path}", line 1' in stderr
    assert "running_scripts" not in stderr
    assert stderr.endswith("ModuleNotFoundError: No module named 'nothing'\n")


@posix
def test_functions_of_the_script_can_be_sent_to_processes(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write(
        "script.py",
        """
        import asyncio, multiprocessing, pickle
        from concurrent.futures import ProcessPoolExecutor

        import bridge

        class Thing:
            value = 5

        def double(x):
            return 2 * x

        def thing():
            return Thing()

        async def main():
            assert isinstance(await bridge.to_process(thing), Thing)
            loop = asyncio.get_running_loop()
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                return await bridge.to_process(double, 2), await loop.run_in_executor(pool, double, 3)

        if __name__ == "__main__":
            assert pickle.loads(pickle.dumps(double)) is double
            print(asyncio.run(main()))
        """,
    )
    assert bridge("run", "script.py", cwd=tmp_path).stdout == "(4, 6)\n"
    assert bridge("run", "-m", "script", cwd=tmp_path).stdout == "(4, 6)\n"


def test_threads_and_exit_functions_find_the_script_as_main(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    write(
        "script.py",
        """
        import atexit, sys, threading

        ended = threading.Event()

        def look():
            ended.wait()
            print(sys.modules["__main__"].look is look)

        threading.Thread(target=look).start()
        threading._register_atexit(ended.set)
        atexit.register(look)
        """,
    )
    assert bridge("run", "script.py", cwd=tmp_path).stdout == "True\nTrue\n"


@pytest.mark.parametrize("args", [[], ["run"], ["jump"], ["run", "--fast", "script.py"]])
def test_a_command_line_that_makes_no_sense_is_refused(args: list[str], tmp_path: Path) -> None:
    done = bridge(*args, cwd=tmp_path, code=2)
    assert "usage: python -m bridge" in done.stderr
