"""The command line: its commands, and how errors end the program."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from typing import Any

import typer
from typer.core import TyperGroup

from raysweep._text import hide_credentials, plain
from raysweep.display.terminal import debugging
from raysweep.errors import RaysweepError, did_you_mean
from raysweep.store.remote.copies import named

VERBS = {  # command → module, in the order of the help
    "run": "run",
    "resume": "resume",
    "branch": "branch",
    "continue": "continue_",
    "list": "list_",
    "show": "show",
    "import": "import_",
    "export": "export",
    "predict": "predict",
    "lineage": "lineage",
    "diff": "diff",
    "compare": "compare",
    "report": "report",
    "suggest": "suggest",
    "verify": "verify",
    "prune": "prune",
    "demo": "demo",
    "doctor": "doctor",
    "resume-experiment": "old_commands",
}

_UsageError: Any = (
    typer.BadParameter.__base__
)  # click's class, or that of the copy of click inside newer versions of Typer


class _Group(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            hint = did_you_mean(args[0], self.list_commands(ctx)) if args else ""
            if hint and "Did you mean" not in error.message:
                error.message += hint
            raise


def _paragraph(text: object) -> str:
    """The text in one line, so that quoted input cannot fake another line or send control codes to the terminal."""
    return hide_credentials(plain(re.sub(r"\s*\n\s*", " ", str(text).strip())))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Branch your training from any checkpoint, change the data ratio, and know which class it helped.",
    epilog="Exit codes: 0 success, 1 the work failed, 2 bad input, 130 interrupted (a checkpoint was saved).",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error.", envvar="RAYSWEEP_DEBUG"),
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if debug:
        os.environ["RAYSWEEP_DEBUG"] = "1"
    if version:
        from importlib.metadata import version as of

        print(of("raysweep"))
        raise typer.Exit()


def _register(arguments: list[str]) -> None:
    """Register only the requested command: importing all of them takes as long as listing 5,000 experiments."""
    first = next((a for a in arguments if not a.startswith("-")), None)
    app.registered_commands.clear()
    for name in [first] if first in VERBS else VERBS:
        importlib.import_module(f"raysweep.cli.{VERBS[str(name)]}").register(app)


def _terminated(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``raysweep`` command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if debug:  # accepted at any position
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    if arguments == ["--version"]:
        from importlib.metadata import version as of

        print(of("raysweep"))
        return
    _register(arguments)
    # SIGTERM ends the program like SIGINT, so that locks are released. (The training has its own handler, which saves first.)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        app(args=arguments, prog_name="raysweep")
    except RaysweepError as error:
        if debug or debugging():
            raise
        label = "" if error.exit_code == 130 else "error: "
        print(f"{label}{named(_paragraph(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `raysweep list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
