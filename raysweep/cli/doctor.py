"""``raysweep doctor``: versions, devices, and whether raysweep can run on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put_words
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.tools.checkup import Found


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def _versions() -> Iterator[Found]:
    from importlib import metadata

    from raysweep.tools.checkup import FAULT, OK, Found

    for name in ("raysweep", "torch", "torchvision", "ray", "pyarrow", "numpy", "pandas", "matplotlib", "scikit-learn"):
        try:
            yield Found(OK, f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            yield Found(FAULT, f"{name} is not installed: pip install {name}")


def _devices() -> Iterator[Found]:
    from raysweep import _machine
    from raysweep.tools.checkup import FAULT, NOTE, OK, Found

    try:
        import torch
        import torchvision  # noqa: F401

        from raysweep.training import device

        yield Found(
            OK, f"torch and torchvision are compatible; CPU capability {torch.backends.cpu.get_cpu_capability()}"
        )
        there = device.found()
        if there is None:
            yield Found(OK, "no GPU: training runs on the CPU")
        else:
            names = ", ".join(device.name(torch.device(there.type, i)) for i in range(device.count()))
            yield Found(OK, f"{counted(device.count(), 'GPU')}: {names}")
            if (caveat := device.caveat(device.current())) is not None:
                yield Found(NOTE, caveat)
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Found(FAULT, f"torch and torchvision are not compatible ({text}): reinstall both together")
    yield Found(OK, counted(_machine.cpus_here(), "CPU"))


def _limits() -> Iterator[Found]:
    """The limits of this process, and what Ray needs."""
    from raysweep import _machine
    from raysweep.cluster import machine
    from raysweep.tools import checkup
    from raysweep.tools.checkup import FAULT, OK, Found

    forbidden = _machine.threads_forbidden(_machine.cpus_here())
    if forbidden is not None:
        yield Found(FAULT, forbidden)
    obstacles = [Found(FAULT, f"Ray cannot be started on this machine: {text}") for text in machine.obstacles()]
    yield from obstacles or [Found(OK, f"Ray can be started on this machine; its files lie in {machine.ray_folder()}")]
    yield from checkup.system()


def _root(root: str) -> Iterator[Found]:
    """Whether experiments can be written there."""
    import os

    from raysweep.errors import RaysweepError
    from raysweep.store import space
    from raysweep.tools.checkup import FAULT, OK, Found

    try:
        place = Root.open(root, look=False)
        place.check_reachable()
    except RaysweepError as error:
        yield Found(FAULT, str(error))
        return
    folder = place.path
    if place.is_remote:
        where = f"{place.address_of(folder)} is reachable and writable"
        yield Found(OK, f"{where}; its local copy is under {folder.parent.parent}")
        yield Found(OK, place.caveat() or "it honours conditions, so a late upload replaces nothing")
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    free = space.free(folder) or 0
    yield Found(
        OK if free > 1e9 else FAULT,
        f"{space.size(free)} free for {'the local copy' if place.is_remote else folder}",
    )
    if os.access(existing, os.W_OK):
        yield Found(OK, f"{existing} is writable")
    else:
        yield Found(FAULT, f"{existing} cannot be written by this user: name another folder with --root")


def _run(config: str | None, overrides: list[str], root: str) -> Iterator[Found]:
    """How much of the disk a run will take: of a configuration, or of the example ``base``."""
    from raysweep.cli.run import is_override
    from raysweep.config import load as load_config
    from raysweep.store import space
    from raysweep.tools import checkup

    named = config is not None
    given = [*([config] if config is not None and is_override(config) else []), *overrides]
    file = config if config is not None and not is_override(config) else None if named else "base"
    settings = load_config.load(file, given, {"root": root})
    if named:
        from raysweep.display.run import RunDisplay
        from raysweep.plan import early
        from raysweep.plan import experiment as experiment_plan

        early.check(settings)
        with RunDisplay() as display:
            plan = experiment_plan.plan_experiment(settings, display, writable=False)
        settings, parameters = plan.settings, plan.parameters
    else:
        from raysweep.training import models

        model = models.build(settings.model.name, settings.model.options, 7, 1, pretrained=False, trusted=True)
        parameters = sum(p.numel() for p in model.parameters())
    found = checkup.of_run(
        settings.training.epochs,
        parameters,
        settings.training.optimizer,
        space.rule(settings.checkpoint.keep),
        Root.open(root, look=False).path,
    )
    yield checkup.Found(found.level, f"a run of {config or 'base'}: {found.text}")


def doctor(
    config: str | None = typer.Argument(
        None, metavar="[CONFIG]", help="A configuration, to know how much of the disk its run will take. Default: base."
    ),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings, as of `raysweep run`."
    ),
    root: RootOption = "experiments",
) -> None:
    """Print versions, check this machine, and say how much of the disk a run will take. Add the output to bug reports."""
    import platform

    from raysweep.tools.checkup import FAULT, OK, Found

    faults = 0

    def check(found: Found) -> None:
        nonlocal faults
        faults += found.level == FAULT
        put_words(plain(f"{found.level:<6} {found.text}"))

    check(Found(OK, f"Python {platform.python_version()} on {platform.platform()}"))
    for looks in (_versions(), _devices(), _limits(), _root(root)):
        for found in looks:
            check(found)
    if not faults:
        for found in _run(config, overrides or [], root):
            check(found)
    raise typer.Exit(1 if faults else 0)
