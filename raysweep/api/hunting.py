"""Hunt: from one checkpoint to a better model within a budget. The command ``raysweep hunt`` calls these functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raysweep.api.config import named
from raysweep.api.given import Reference, checkpoint, showing, text, trusting
from raysweep.api.hunted import Hunt
from raysweep.errors import InputError
from raysweep.events import Loading, Progress

if TYPE_CHECKING:
    from raysweep.config.space import Space
    from raysweep.plan.hunt.plan import HuntPlan, HuntRequest
    from raysweep.plan.resources import ResourceOverrides
    from raysweep.store.hunts import Hunt as Stored
    from raysweep.store.trust import Trust


def hunt(
    start: Reference,
    *,
    budget: str | None = None,
    images: int | str | None = None,
    branches: int | None = None,
    rounds: int | None = None,
    space: Reference | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    name: str | None = None,
    description: str = "",
    proposer: str = "model",
    seed: int = 0,
    threads: int | None = None,
    workers: int | None = None,
    max_concurrent: int | None = None,
    gpus_per_branch: float | None = None,
    address: str | None = None,
    in_process: bool = False,
    settings: Mapping[str, Any] | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
    trust: bool | Trust = False,
) -> Hunt:
    """Hunt for a better model than longer training of a checkpoint gives (``raysweep hunt``).

    Args:
        start: a checkpoint: an object, a path, or ``EXPERIMENT@5``, ``@best``, ``@latest``.
        budget, images, branches: exactly one of a time (``"2h"``), images to show (``2_000_000`` or ``"2M"``), trainings.
        rounds: of branches; default: as the budget allows, at most four.
        space: the path of a space file, or its content: what is varied. Default: the weights of the rarest classes, the loss, the learning rate.
        epochs: of each round; overrides the space's.
        proposer: ``model``, ``optuna`` or ``random``; ``seed`` is that of the proposals.
        threads, workers, max_concurrent, gpus_per_branch, address, in_process, settings: as of :func:`raysweep.branch`.
        root: the folder of all experiments; default: the parent's.
        progress: called with the events of :mod:`raysweep.events`.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Raises:
        InputError: something given is wrong; no folder was made. Interrupted: by a signal; ``continue_`` goes on.
    """
    request = request_of(
        start, (budget, None if images is None else str(images), branches), rounds, space, proposer, seed, root,
        name=name, description=description, epochs=epochs, threads=threads, workers=workers, max_concurrent=max_concurrent,
        gpus_per_branch=gpus_per_branch, address=address, in_process=in_process, overrides=named(settings or {}) or None, trust=trusting(trust),
    )  # fmt: skip
    with showing(progress, sweep=True) as shown:
        return Hunt(run_hunt(plan_hunt(request, shown), shown))


def request_of(
    start: Reference,
    budget: tuple[str | None, str | None, int | None],
    rounds: int | None,
    space: Reference | Mapping[str, Any] | None,
    proposer: str,
    seed: int,
    root: Reference | None,
    **of_sweep: Any,
) -> HuntRequest:
    """What a user asks, checked as far as it can be without the checkpoint.

    Raises:
        InputError: something is wrong.
    """
    from raysweep.config import grid as grids
    from raysweep.plan.hunt import budget as budgets
    from raysweep.plan.hunt.plan import HuntRequest
    from raysweep.plan.types import SweepRequest

    if rounds is not None and rounds < 1:
        raise InputError(f"A hunt has at least one round, not {rounds}.")
    amount, known = budgets.parse(*budget), _space(space)
    opened, reference = checkpoint(start, root)
    nothing = grids.check({"weights": ["natural"]})  # each round has a grid of its own
    return HuntRequest(SweepRequest(opened, reference, nothing, **of_sweep), amount, rounds, known, proposer, seed)


def _space(given: Reference | Mapping[str, Any] | None) -> Space | None:
    from raysweep.config import space as spaces

    if given is None:
        return None
    return spaces.check(given) if isinstance(given, Mapping) else spaces.read(text(given))


def plan_hunt(request: HuntRequest, progress: Progress, writable: bool = True) -> HuntPlan:
    """Check a hunt. Nothing is written but the image cache.

    Raises:
        InputError: what is wrong and what to do.
    """
    progress(Loading())
    from raysweep.plan.hunt import plan

    return plan.plan_hunt(request, progress, writable)


def run_hunt(plan: HuntPlan, progress: Progress) -> Stored:
    """Train all of a hunt that was planned, look once at its end, and write its page."""
    from raysweep.launch.hunt import driver
    from raysweep.tools import hunted

    return driver.run(plan, progress, hunted.finish)


def go_on(stored: Stored, steal: bool, asked: ResourceOverrides, progress: Progress, trust: Trust) -> Stored:
    """Finish a hunt that was interrupted."""
    from raysweep.launch.hunt import driver
    from raysweep.tools import hunted

    return driver.continue_hunt(stored, steal=steal, asked=asked, progress=progress, trust=trust, finish=hunted.finish)
