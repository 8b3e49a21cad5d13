"""Run one planned experiment to its end."""

from __future__ import annotations

from dataclasses import replace

from raysweep.events import Progress, ignore
from raysweep.launch.runner import Result, start
from raysweep.plan.types import Plan
from raysweep.trackers import credentials
from raysweep.trackers.dispatch import dispatching


def run(plan: Plan, progress: Progress = ignore) -> Result:
    """Make the experiment's folder and train it to its end.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was saved.
        RaysweepError: the work failed; the folder's log says why.
    """
    from raysweep.launch.workers import start as workers

    with (
        dispatching(progress, plan.settings.trackers) as dispatcher,
        workers.session(plan.settings, plan.resources, dispatcher) as fitted,
    ):
        plan = replace(plan, resources=fitted, settings=credentials.stored(plan.settings))
        return start(plan, workers.launcher(fitted), dispatcher)
