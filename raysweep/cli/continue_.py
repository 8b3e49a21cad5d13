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
    from raysweep.store.experiment import Experiment
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
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Finish an interrupted experiment or sweep in place. Starts from the newest intact checkpoints."""
    from raysweep.config.load import parse_workers
    from raysweep.store import resolve
    from raysweep.store.sweep import Sweep

    count = parse_workers(workers)
    found = resolve.find_any(Root.open(root), reference)
    if isinstance(found, Sweep):
        _sweep(found, steal, (threads, count, address), trust)
    else:
        _experiment(found, steal, (threads, count, address), trust)


def _sweep(sweep: Sweep, steal: bool, asked: Asked, trust: bool) -> None:
    from raysweep.cli.branch import summarise
    from raysweep.display.sweep import SweepDisplay

    with SweepDisplay() as display:
        display(Loading())
        from raysweep.launch.sweep.resume import continue_sweep
        from raysweep.plan.resources import ResourceOverrides

        result = continue_sweep(
            sweep.root,
            sweep,
            steal=steal,
            asked=ResourceOverrides(*asked),
            progress=display,
            trust=consent(trust, display),
        )
    put(str(result.sweep.folder))
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
