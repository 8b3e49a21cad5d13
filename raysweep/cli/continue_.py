"""``raysweep continue``: finish an interrupted experiment or sweep in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from raysweep.cli.consent import consent
from raysweep.cli.options import RootOption, TrustOption
from raysweep.display.terminal import put
from raysweep.events import Loading
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.errors import InputError
    from raysweep.store.experiment import Experiment
    from raysweep.store.folds import Folds
    from raysweep.store.sweep import Sweep

Asked = tuple[int | None, int | list[int] | None, str | None]  # threads, workers, address


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
    from raysweep.config.load import parse_workers
    from raysweep.errors import InputError
    from raysweep.store import folds, resolve
    from raysweep.store.sweep import Sweep

    count = parse_workers(workers)
    of_folds = folds.find(Root.open(root), reference)
    if of_folds is not None:
        if epochs is not None or more_seeds or more_controls:
            raise InputError(
                f"{of_folds.id} is a k-fold sweep: continue finishes it. Name the sweep of a fold for more seeds."
            )
        _folds(of_folds, steal, (threads, count, address), trust)
        return
    found = resolve.find_any(Root.open(root), reference)
    if epochs is not None:
        raise _longer(found, epochs)
    if isinstance(found, Sweep):
        more = (more_seeds or 0, more_seeds or 0 if more_controls is None else more_controls)
        _sweep(found, steal, (threads, count, address), trust, more)
    elif more_seeds or more_controls:
        raise InputError(f"{found.id} is an experiment. Only a sweep can get more seeds.")
    else:
        _experiment(found, steal, (threads, count, address), trust)


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


def _sweep(sweep: Sweep, steal: bool, asked: Asked, trust: bool, more: tuple[int, int]) -> None:
    from raysweep.cli.branch import summarise
    from raysweep.display.sweep import SweepDisplay

    with SweepDisplay() as display:
        display(Loading())
        from raysweep.launch.sweep.more_seeds import MoreSeeds
        from raysweep.launch.sweep.resume import continue_sweep
        from raysweep.plan.resources import ResourceOverrides

        result = continue_sweep(
            sweep.root,
            sweep,
            steal=steal,
            asked=ResourceOverrides(*asked),
            progress=display,
            trust=consent(trust, display),
            more=MoreSeeds(*more) if any(more) else None,
        )
    put(str(result.sweep.folder))
    summarise(result)


def _folds(found: Folds, steal: bool, asked: Asked, trust: bool) -> None:
    from raysweep.cli.folds import summarise
    from raysweep.display.sweep import SweepDisplay

    with SweepDisplay() as display:
        display(Loading())
        from raysweep.launch.sweep.folds import continue_folds
        from raysweep.plan.resources import ResourceOverrides

        result = continue_folds(
            found, steal=steal, asked=ResourceOverrides(*asked), progress=display, trust=consent(trust, display)
        )
    put(str(result.folds.folder))
    summarise(result)


def _experiment(experiment: Experiment, steal: bool, asked: Asked, trust: bool) -> None:
    from raysweep.cli.run import announce
    from raysweep.display.run import RunDisplay

    with RunDisplay() as display:
        display(Loading())
        from raysweep.launch.resume import continue_experiment
        from raysweep.plan.resources import ResourceOverrides

        root = experiment.root
        result = continue_experiment(
            root,
            experiment,
            steal=steal,
            asked=ResourceOverrides(*asked),
            progress=display,
            trust=consent(trust, display),
        )
    put(str(result.experiment.folder))
    announce(display, result.experiment)
