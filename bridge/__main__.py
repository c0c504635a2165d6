"""`python -m bridge`: explain a code that was logged, or run an asyncio script on bridge's loop.

    python -m bridge explain [CODE]
    python -m bridge run [--debug] [--json] [--threshold SECONDS] (SCRIPT | -m MODULE) [ARGUMENT ...]

Exit codes: those of the script; 2 where the command line itself is wrong.
"""

from __future__ import annotations

import argparse
import sys

from bridge.diagnostics import switch


def seconds(text: str) -> float:
    """A duration from the command line."""
    try:
        return switch.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def command_line() -> argparse.ArgumentParser:
    """What can be typed."""
    parser = argparse.ArgumentParser(prog="python -m bridge", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    explain = commands.add_parser(
        "explain",
        help="what a code in the log means, a wrong and a right program, how to tune or silence it",
        description="Print the page of a code; without one, list all codes.",
    )
    explain.add_argument("code", nargs="?", metavar="CODE", help="such as BRG101")

    run = commands.add_parser(
        "run",
        help="run an unchanged asyncio script on bridge's loop, with all diagnostics",
        description="Run a script as `python SCRIPT` does, on bridge's event loop, with all diagnostics.",
        usage="%(prog)s [--debug] [--json] [--threshold SECONDS] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        allow_abbrev=False,
    )
    run.add_argument("--debug", action="store_true", help="asyncio's debug mode: more detail, every message each time")
    run.add_argument("--json", action="store_true", help="bridge's messages as JSON on standard error, one a line")
    run.add_argument(
        "--threshold",
        type=seconds,
        metavar="SECONDS",
        help="report what blocks the loop for this long (loop.slow_callback_duration; 0.1 unless given)",
    )
    run.add_argument("-m", dest="as_module", action="store_true", help="SCRIPT is the name of a module or package")
    run.add_argument("script", metavar="SCRIPT", help="a file, a folder or zip file with a __main__.py, or a module")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="the script's own arguments")
    return parser


def main() -> int:
    """Do what the command line says."""
    options = command_line().parse_args()
    if options.command == "run":
        from bridge.running_scripts import Settings, run_script

        settings = Settings(debug=options.debug, json=options.json, threshold=options.threshold)
        return run_script(options.script, options.arguments, as_module=options.as_module, settings=settings)

    from bridge.diagnostics.explain import UnknownCode, overview, page

    try:
        text = page(options.code) if options.code else overview()
    except UnknownCode as error:
        print(error, file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
