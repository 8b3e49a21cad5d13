"""``raysweep continue``: finish an interrupted experiment or sweep in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from raysweep.cli.consent import consent
from raysweep.cli.options import RootOption, TrustOption
from raysweep.display.terminal import put

if TYPE_CHECKING:
    from raysweep.api.experiment import Experiment as Held
    from raysweep.api.hunted import Hunt as HeldHunt
    from raysweep.api.sweep import Folds as HeldFolds
    from raysweep.api.sweep import Sweep as HeldSweep
    from raysweep.api.training import Asked, More
    from raysweep.errors import InputError
    from raysweep.store.experiment import Experiment
    from raysweep.store.sweep import Sweep

    Found = Held | HeldSweep | HeldFolds | HeldHunt


def register(app: typer.Typer) -> None:
    app.command("continue", no_args_is_help=True)(continue_)


def continue_(
    reference: str = typer.Argument(..., help="An experiment or a sweep: id, name, prefix or path."),
    steal: bool = typer.Option(
        False, "--steal", help="Take over the lock of a process on another host that is certainly gone."
    ),
    threads: int | None = typer.Option(None, "--threads", min=1, help="A different number of threads; not bit-exact."),
    workers: str | None = typer.Option(
        None,
        "--workers",
        metavar="N|MIN-MAX",
        help="A different number of Ray workers. 0: train in this process. 2-8: as many as fit.",
    ),
    address: str | None = typer.Option(None, "--address", help="Another Ray cluster. local: this machine."),
    more_seeds: int | None = typer.Option(
        None, "--more-seeds", min=0, help="Of a sweep: train every branch, and the control, with so many more seeds."
    ),
    more_controls: int | None = typer.Option(
        None, "--more-controls", min=0, help="So many more seeds of the control instead."
    ),
    epochs: int | None = typer.Option(None, "--epochs", hidden=True),
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Finish an interrupted experiment or sweep in place. Starts from the newest intact checkpoints."""
    from raysweep.api import reading
    from raysweep.api.hunted import Hunt
    from raysweep.api.sweep import Folds
    from raysweep.config.load import parse_workers
    from raysweep.errors import InputError

    asked = (threads, parse_workers(workers), address)
    found = reading.find(reference, root)
    if epochs is not None:
        if isinstance(found, Folds):
            raise InputError(
                f"{found.id} is a k-fold sweep: continue finishes it. Name the sweep of a fold for more seeds."
            )
        if isinstance(found, Hunt):
            raise InputError(f"{found.id} is a hunt: continue finishes it. Begin another one with --epochs.")
        raise _longer(found.stored, epochs)
    _go_on(found, steal, asked, (more_seeds, more_controls), trust)


def _longer(found: Experiment | Sweep, epochs: int) -> InputError:
    """What to type to train longer, which ``continue`` cannot: an experiment keeps the end that it was given."""
    from raysweep.errors import InputError
    from raysweep.store.commands import command
    from raysweep.store.sweep import Sweep

    text = f"--epochs {epochs}: continue finishes the epochs that were planned. To train "
    if isinstance(found, Sweep):
        return InputError(f"{text}the branches of {found.id} for longer, begin a sweep with more epochs.")
    words = ["--from", f"{found.id}@latest", "--epochs", str(epochs)]
    if ends := found.manifest().ends:
        from raysweep.plan import advice

        words = advice.from_checkpoint(found, ends[-1].epoch, epochs)
        words += [] if "--epochs" in words else ["--epochs", str(epochs)]
    return InputError(f"{text}longer, start a child: `{command(found.root, 'resume', *words)}`")


def _go_on(found: Found, steal: bool, asked: Asked, more: More, trust: bool) -> None:
    """Finish it, and print what came out."""
    from raysweep.api.experiment import Experiment
    from raysweep.api.training import check_more
    from raysweep.cli import branch, folds, hunt, run
    from raysweep.display.run import RunDisplay
    from raysweep.display.sweep import SweepDisplay

    check_more(found, more)
    with RunDisplay() if isinstance(found, Experiment) else SweepDisplay() as display:
        from raysweep.api import training

        done = training.go_on(found, steal, asked, more, display, consent(trust, display))
    put(str(found.folder))
    if isinstance(found, Experiment) and isinstance(display, RunDisplay):
        run.announce(display, found.stored)
        return
    from raysweep.launch.sweep.driver import SweepResult
    from raysweep.launch.sweep.folds import FoldsResult
    from raysweep.store.hunts import Hunt

    if isinstance(done, SweepResult):
        branch.summarise(done)
    elif isinstance(done, FoldsResult):
        folds.summarise(done)
    elif isinstance(done, Hunt):
        hunt.summarise(done)
