"""``raysweep continue``: finish an interrupted experiment or sweep in place."""

from __future__ import annotations

from typing import Any

import typer

from raysweep.display.terminal import put
from raysweep.events import Loading
from raysweep.store.root import Root


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
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
) -> None:
    """Finish an interrupted experiment or sweep in place. Starts from the newest intact checkpoints."""

    from raysweep.cli.run import announce
    from raysweep.config.load import parse_workers
    from raysweep.display.run import RunDisplay

    count = parse_workers(workers)
    where = Root.open(root)
    if _is_sweep(where, reference):
        from raysweep.cli.branch import summarise
        from raysweep.display.sweep import SweepDisplay

        with SweepDisplay() as table:
            table(Loading())
            from raysweep.launch.sweep.resume import continue_sweep
            from raysweep.plan.resources import ResourceOverrides

            asked = ResourceOverrides(threads, count, address)

            finished = continue_sweep(where, reference, steal=steal, asked=asked, progress=table)
        put(str(finished.sweep.folder))
        summarise(finished, root)
        return
    with RunDisplay() as display:
        display(Loading())
        from raysweep.launch import resume as resuming
        from raysweep.plan import resources

        asked = resources.ResourceOverrides(threads, count, address)

        result = resuming.continue_experiment(where, reference, steal=steal, asked=asked, progress=display)
    put(str(result.experiment.folder))
    announce(display, result.experiment, root)


def _is_sweep(root: Any, reference: str) -> bool:
    """Whether a reference means a sweep; an experiment of that name takes precedence."""
    from raysweep.errors import AmbiguousReferenceError, NotFoundError
    from raysweep.store import catalog, layout, resolve, sweep

    if any(reference in (s.id, layout.split_id(s.id)[0]) for s in sweep.all_sweeps(root)):
        # The name of a sweep is also the start of its branches' names.
        return not any(reference in (e.id, layout.split_id(e.id)[0]) for e in catalog.experiments(root))

    try:
        resolve.find_experiment(root, reference)
        return False
    except NotFoundError:
        try:
            resolve.find_sweep(root, reference)
            return True
        except AmbiguousReferenceError:
            raise
        except NotFoundError:
            return False
