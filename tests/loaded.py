"""What takes seconds to import, for processes that fork: see :mod:`tests.forks`."""

# ruff: noqa: F401
import ray.train.torch

import raysweep.cli.continue_
import raysweep.cli.entry
import raysweep.cli.main
import raysweep.cli.run
import raysweep.launch.resume
import raysweep.report.figures
import raysweep.training.loop
