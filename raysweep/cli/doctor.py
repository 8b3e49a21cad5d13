"""``raysweep doctor``: versions, devices, and whether raysweep can run on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from raysweep._text import counted
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def _versions() -> Iterator[tuple[bool, str]]:
    """(whether it is well, what to print) of the libraries."""
    from importlib import metadata

    for name in ("raysweep", "torch", "torchvision", "ray", "pyarrow", "numpy", "pandas", "matplotlib", "scikit-learn"):
        try:
            yield True, f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield False, f"{name} is not installed: pip install {name}"


def _devices() -> Iterator[tuple[bool, str]]:
    """The same of torch, GPUs and CPUs."""
    from raysweep import _machine
    from raysweep.plan import resources

    try:
        import torch
        import torchvision  # noqa: F401

        yield True, f"torch and torchvision are compatible; CPU capability {torch.backends.cpu.get_cpu_capability()}"
        gpus = resources.gpus_here()
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(gpus))
        yield True, f"{counted(gpus, 'GPU')}: {names}" if gpus else "no GPU: training runs on the CPU"
    except Exception as error:
        yield False, f"torch and torchvision are not compatible ({str(error).splitlines()[0]}): reinstall both together"
    yield True, counted(_machine.cpus_here(), "CPU")


def _limits() -> list[tuple[bool, str]]:
    """The same of the limits of this process and of what Ray needs."""
    from raysweep import _machine
    from raysweep.cluster import machine

    forbidden = _machine.threads_forbidden(_machine.cpus_here())
    found = [] if forbidden is None else [(False, forbidden)]
    found += [(False, f"Ray cannot be started on this machine: {text}") for text in machine.obstacles()]
    if len(found) == (forbidden is not None):
        found.append((True, f"Ray can be started on this machine; its files lie in {machine.ray_folder()}"))
    note = machine.object_store()[1]
    return found if note is None else [*found, (True, note)]


def doctor(
    root: RootOption = "experiments",
) -> None:
    """Print versions and check this machine. Add the output to bug reports."""
    import platform
    import shutil

    from raysweep.errors import RaysweepError

    faults = 0

    def check(ok: bool, text: str) -> None:
        nonlocal faults
        faults += not ok
        put(f"{'ok   ' if ok else 'FAULT'}  {text}")

    check(True, f"Python {platform.python_version()} on {platform.platform()}")
    for ok, text in (*_versions(), *_devices(), *_limits()):
        check(ok, text)
    try:
        place = Root.open(root, look=False)
        place.check_reachable()
    except RaysweepError as error:
        check(False, str(error))
        raise typer.Exit(1) from None
    folder = place.path
    if place.is_remote:
        check(
            True,
            f"{place.address_of(folder)} is reachable and writable; its local copy is under {folder.parent.parent}",
        )
        check(True, place.caveat() or "it honours conditions, so a late upload replaces nothing")
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    check(free > 1, f"{free:.0f} GB free for {'the local copy' if place.is_remote else folder}")
    try:
        import os

        check(os.access(existing, os.W_OK), f"{existing} is writable")
    except RaysweepError as error:
        check(False, str(error))
    raise typer.Exit(1 if faults else 0)
