"""The command line: its commands, and how errors end the program."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from raysweep import _locks, _machine
from raysweep._text import hide_credentials, plain
from raysweep.cli import help_texts
from raysweep.display.streams import OutputGone
from raysweep.display.terminal import debugging, never_fail, say
from raysweep.errors import Faults, InputError, RaysweepError, ResourceError, did_you_mean

VERBS = {  # command → module, in the order of the help
    "init": "init",
    "run": "run",
    "resume": "resume",
    "branch": "branch",
    "hunt": "hunt",
    "continue": "continue_",
    "ui": "ui",
    "list": "list_",
    "show": "show",
    "import": "import_",
    "export": "export",
    "predict": "predict",
    "evaluate": "evaluate",
    "lineage": "lineage",
    "diff": "diff",
    "compare": "compare",
    "flips": "flips",
    "audit": "audit",
    "power": "power",
    "report": "report",
    "suggest": "suggest",
    "verify": "verify",
    "prune": "prune",
    "demo": "demo",
    "doctor": "doctor",
    "resume-experiment": "old_commands",
}

WITH_TORCH = {
    "run",
    "resume",
    "branch",
    "hunt",
    "continue",
    "import",
    "export",
    "predict",
    "evaluate",
    "demo",
    "doctor",
    "resume-experiment",
}
WRITES = {
    "run",
    "resume",
    "branch",
    "hunt",
    "continue",
    "import",
    "evaluate",
    "prune",
    "demo",
    "resume-experiment",
}  # experiments

_UsageError: Any = (
    typer.BadParameter.__base__
)  # click's class, or that of the copy of click inside newer versions of Typer


_CommandLineError: Any = _UsageError.__base__


def _in_our_words(error: Any) -> InputError:
    """What Typer says of a wrong command line, in one paragraph and with the command that explains it."""
    words = error.format_message().strip()
    context = getattr(error, "ctx", None)
    end = "" if words.endswith((".", "?", "!")) else "."
    return InputError(f"{words}{end} See `{context.command_path if context else 'raysweep'} --help`.")


def _write_examples(verb: str, formatter: Any) -> None:
    """Commands that can be copied: they are not broken, however narrow the terminal is."""
    if lines := help_texts.examples(verb):
        formatter.write("\nExamples:\n" + "\n".join(lines) + "\n")


class _Command(TyperCommand):
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(str(self.name), formatter)
        super().format_epilog(ctx, formatter)


class _Group(TyperGroup):
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands in groups, each with the first sentence of its help."""
        there = {
            name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name)) is not None
        }
        for title, verbs in help_texts.GROUPS.items():
            rows = [(v, there[v].get_short_help_str(300)) for v in verbs if v in there]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples("", formatter)
        super().format_epilog(ctx, formatter)

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


def _lines(error: RaysweepError) -> list[str]:
    """The message in one paragraph, or, of several faults, as a list."""
    told = error.args[0] if error.args else ""
    if isinstance(told, Faults) and len(told.faults) > 1:
        return [f"{_paragraph(told.head)}:", *(f"  {_paragraph(fault)}" for fault in told.faults)]
    return [_paragraph(error)]


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
    for command in app.registered_commands:
        command.cls = _Command
    if "_RAYSWEEP_COMPLETE" in os.environ:
        from raysweep.cli import completion

        completion.attach(app)


def _check_limits(arguments: list[str]) -> None:
    """Refuse to load torch where its libraries do not fit, and to begin what cannot be written.

    Raises:
        ResourceError: they do not, or it cannot.
    """
    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb in WRITES and not {"--help", "-h"} & {*arguments}:
        _locks.demand()
    if verb in WITH_TORCH:
        problem = _machine.too_small_for_torch()
        if problem is not None:
            raise ResourceError(problem)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; ends with SystemExit where it did not succeed. :mod:`raysweep.cli.entry` calls it for the program."""
    arguments = sys.argv[1:] if arguments is None else arguments
    never_fail()
    debug = "--debug" in arguments
    if debug:  # accepted at any position
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    if arguments == ["--version"]:
        from importlib.metadata import version as of

        print(of("raysweep"))
        return
    _register(arguments)
    try:
        _check_limits(arguments)
        try:
            code = app(args=arguments, prog_name="raysweep", standalone_mode=False)
        except _CommandLineError as error:  # as every other error, not with Typer's own words and paragraphs around it
            if type(error).__name__ == "NoArgsIsHelpError":  # `raysweep show` alone prints its help
                error.show()
                sys.exit(error.exit_code)
            raise _in_our_words(error) from None
        if code:
            sys.exit(code)
    except RaysweepError as error:
        if debug or debugging():
            raise
        label = "" if error.exit_code == 130 else "error: "
        for line in _lines(error):
            say(f"{label}{line}")
            label = ""
        sys.exit(error.exit_code)
    except OutputGone as error:
        if error.quiet:  # `raysweep list | head`
            sys.exit(0)
        print(f"error: the output could not be written: {plain(error)}.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
