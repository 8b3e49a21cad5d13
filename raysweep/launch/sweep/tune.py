"""Hand the branches of a sweep to Ray Tune. Of Tune we use the queue, reused actors, search and early stopping. Tune's own files
are written to the caches and never read again."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import ascii_form
from raysweep.cluster import _ray_internals, connect, signals
from raysweep.cluster.channel import Forward, open_channel, watch
from raysweep.cluster.dashboard import Shown
from raysweep.cluster.signals import StopFlag
from raysweep.config.grid import Grid, Point, Range
from raysweep.errors import ConfigError, RaysweepError, TrainingError
from raysweep.events import (
    BranchEnded,
    BranchEvent,
    BranchStarted,
    Connected,
    Connecting,
    Event,
    Note,
    Progress,
    RankEvent,
)
from raysweep.launch.sweep import limit
from raysweep.launch.sweep.branch import METRICS, Shared, SharedRef, train_kept
from raysweep.launch.sweep.limit import Limit
from raysweep.launch.sweep.tracebacks import Tracebacks
from raysweep.launch.workers import retry
from raysweep.launch.workers.attempt import ray_folder
from raysweep.store.commands import continue_command
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.results import Results
from raysweep.store.sweep import Sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from ray.tune import Tuner

POLL_S = 0.5  # the driver shares its CPUs with the branches


_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours lets every branch save first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the branches' folders contain the whole log
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a branch that fails or is stopped in its first epoch reports none
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # its own state is never restored from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # an actor is used again also when a branch takes long to end
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a data path relative to the user's folder stays valid
}


@dataclass(frozen=True)
class Work:
    """What is to be trained, and how much of it at once."""

    sweep: Sweep
    grid: Grid
    points: list[Point]
    shared: Shared
    limit: Limit  # how many at once; on a cluster that may change while they train
    epochs: int
    gpus: float
    retries: int
    record: SweepRecord
    search: bool = True  # whether a search's branches follow


@dataclass
class TuneOutcome:
    """How it went: why it was stopped, if it was, and the branches that failed with the reason."""

    stopped: str | None = None
    failed: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def connected(address: str | None, progress: Progress, name: str | None = None) -> Iterator[list[dict[str, float]]]:
    """Ray for a sweep; yields the resources of every node. A cluster started here is stopped at the end.

    Args:
        name: of the job, on the dashboard.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    progress(Connecting(address))
    # Importing Tune takes two seconds, in which a starting cluster only makes the driver wait.
    connect.quiet_environment()
    importing = threading.Thread(target=importlib.import_module, args=("ray.tune",), daemon=True)
    importing.start()
    connection = connect.connect(address, name=name)
    importing.join()
    try:
        progress(Connected(connect.dashboard_hint(connection.dashboard), str(connection.logs)))
        yield connection.nodes
    finally:
        if connection.local:
            connect.disconnect()


class AtWork:
    """Which branches are at work, from their events; and whether a stop has left none, so that nobody waits for Tune, which
    would start every branch that is left, only to hear that it must not begin."""

    def __init__(self, stop: Forward) -> None:
        self.stop, self.arrived = stop, False
        self.branches: set[str] = set()

    def __call__(self, event: Event) -> None:
        match event:
            case BranchEvent(branch, BranchStarted()):
                self.branches.add(branch)
            case BranchEvent(branch, BranchEnded()):
                self.branches.discard(branch)

    def none(self) -> bool:
        """For the command line only, whose process ends now. Call it after all events that have come were told."""
        if signals.asked() is None:
            return False
        before, self.arrived = self.arrived, self.arrived or self.stop.arrived()
        return before and not self.branches  # not at once: a branch may have begun just before the request arrived


def launch(work: Work, progress: Progress) -> TuneOutcome:
    """Train all branches; returns when none is left or when a signal asked to stop and all have saved."""
    ended = TuneOutcome()
    flag = StopFlag()
    with signals.signals(flag):
        if flag.reason is not None:
            ended.stopped = flag.reason
            return ended
        return _train(work, progress, ended, flag)


def _train(work: Work, progress: Progress, ended: TuneOutcome, flag: StopFlag) -> TuneOutcome:
    import ray

    channel = open_channel(work.sweep.id, work.limit.count)
    shown = Shown(channel)
    work = replace(work, shared=replace(work.shared, channel=channel))
    results = Results(work.sweep)
    stop = Forward(channel)
    at_work = AtWork(stop)
    broken: list[BaseException] = []
    tell = Tracebacks(work.sweep, progress)

    def fit() -> None:
        try:
            if work.points:
                _tune(work, {"branch": [p.name for p in work.points]}, ended)
            left = samples_left(work.grid, work.record) if work.search else 0
            if left and flag.reason is None:
                _tune(work, None, ended, left)
        except BaseException as error:
            broken.append(error)

    def handle(events: list[Event | RankEvent]) -> None:
        for event in events:
            assert not isinstance(event, RankEvent)  # they go to the event channel of their attempt
            match event:
                case BranchEvent(branch, BranchEnded(status="failed", reason=reason)):
                    ended.failed[branch] = reason
            at_work(event)
            tell(event)
            results.told(event)
            shown(event)
        if flag.reason is None and (changed := work.limit.change()) is not None:
            progress(Note(changed))
        results.write_when_due(ended.failed)
        stop(flag.reason)

    # Not in the main thread: that one handles signals and shows the progress.
    thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
    try:
        watch(thread, channel, POLL_S, handle, lambda: flag.reason, at_work.none)
    finally:  # however it ended, the files say what is known
        with contextlib.suppress(RaysweepError):
            results.write(ended.failed)
    shown.close(dict(ended.failed))
    with contextlib.suppress(Exception):  # Ray may have ended
        ray.kill(channel)
    ended.stopped = flag.reason
    if broken:
        text = str(broken[0]).strip().splitlines()
        raise TrainingError(
            f"Ray Tune failed: {text[-1][:300] if text else type(broken[0]).__name__}. The branches that ran are in their folders; "
            f"go on with: {continue_command(work.sweep.root, work.sweep.id)}"
        ) from broken[0]
    return ended


def samples_left(grid: Grid, record: SweepRecord) -> int:
    """How many branches an Optuna search has still to choose, after those that ``sweep.json`` knows."""
    if grid.search.algorithm != "optuna":
        return 0
    return max(0, (grid.search.num_samples or 0) - sum(b.searched for b in record.branches))


def _tune(work: Work, grid: dict[str, list[str]] | None, ended: TuneOutcome, samples: int = 1) -> None:
    """One run of Tune: over the branches of a grid, or, without one, over a search's suggestions."""
    import ray

    storage = Path(ray_folder(work.sweep.root)) / "tune"
    name = f"{ascii_form(work.sweep.id)}-{int(time.time() * 1000)}"
    tuner = _tuner(work, grid, samples, SharedRef(ray.put(work.shared)), storage, name)
    try:
        for result in tuner.fit():
            if result.error is not None and grid is not None:
                branch = (result.config or {}).get("branch", "?")
                if branch not in ended.failed:  # its process died and could not report it
                    ended.failed[branch] = retry.of_trial(result.error)
                    work.sweep.keep_traceback(branch, str(result.error))
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def _tuner(
    work: Work, grid: dict[str, list[str]] | None, samples: int, shared: SharedRef, storage: Path, name: str
) -> Tuner:
    from ray import tune

    metric = "val_macro_f1" if work.grid.metric == "macro_f1" else work.grid.metric
    now = replace(work.limit)  # Tune looks for itself, maybe in another process
    trainable = tune.with_parameters(train_kept, kept=shared)
    trainable.__name__ = ascii_form(work.sweep.id)  # the dashboard shows it among the actors
    return tune.Tuner(
        tune.with_resources(trainable, _of_a_trial(work)),
        param_space={"branch": tune.grid_search(grid["branch"])} if grid else None,
        tune_config=tune.TuneConfig(
            num_samples=samples,
            reuse_actors=True,
            search_alg=limit.of_grid(now) if grid else limit.of_search(_optuna(work, metric), now),
            scheduler=_asha(work, metric) if work.grid.scheduler == "asha" else None,
            trial_name_creator=_trial_name,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=work.retries),
            callbacks=[silent_and_forgetful()],
            progress_reporter=silent_reporter(),
        ),
    )


def _of_a_trial(work: Work) -> dict[str, float]:
    """The resources that Ray reserves for a branch."""
    assert work.shared.base is not None  # only a continuation without the parent has none, and it does not use Tune
    needs = work.shared.base.resources
    if needs.workers > 0:
        # The branch itself only waits: its workers bring their own CPUs. A trial must ask for something.
        return {"CPU": 0, "memory": 1024**2}
    return {"CPU": needs.cpus} | ({"GPU": work.gpus} if work.gpus else {})


def silent_and_forgetful() -> Any:
    """Takes the place of the callback by which Tune prints "Trial … completed" among our lines, which nothing else prevents.

    It also lets Tune forget the running means of every metric when a trial has ended: two thirds of what it keeps of one.
    """
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silent(TrialProgressCallback):  # type: ignore[misc, unused-ignore]  # Ray has no types here
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            pass

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            pass

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            _ray_internals.forget_running_means(trial)

    return Silent()


def silent_reporter() -> Any:
    """Takes the place of Tune's own display: in a notebook that clears the cell's output, and ours with it."""
    from ray.tune import ProgressReporter

    class Silent(ProgressReporter):  # type: ignore[misc, unused-ignore]  # Ray has no types here
        def should_report(self, trials: list[Any], done: bool = False) -> bool:
            return False

        def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
            pass

    return Silent()


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("branch") or trial.trial_id)


def _asha(work: Work, metric: str) -> Any:
    """Asynchronous successive halving (Li et al. 2020, https://arxiv.org/abs/1810.05934); controls are never stopped."""
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    references = {p.reference for p in work.points}
    controls = {p.name for p in work.points if p.control or p.arm in references}

    class Scheduler(ASHAScheduler):  # type: ignore[misc, unused-ignore]  # Ray has no types here
        def on_trial_result(self, controller: Any, trial: Any, result: Any) -> str:
            decision: str = super().on_trial_result(controller, trial, result)
            return str(TrialScheduler.CONTINUE) if trial.config.get("branch") in controls else decision

    return Scheduler(
        time_attr="epochs_done", metric=metric, mode="max", max_t=work.epochs + 1, grace_period=1, reduction_factor=2
    )


def _optuna(work: Work, metric: str) -> Any:
    """Optuna's sampler over the ranges. It gets what earlier runs of this sweep have measured."""
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise ConfigError("search.algorithm: optuna needs Optuna: pip install 'raysweep[optuna]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = _measured(work, metric)
    search = OptunaSearch(
        space={name: _distribution(r) for name, r in work.grid.search.ranges.items()},
        metric=metric,
        mode="max",
        # Not the stream of before a break: it would suggest again what was tried.
        seed=work.grid.search.seed + sum(b.searched for b in work.record.branches),
        points_to_evaluate=[weights for weights, _ in known] or None,
        evaluated_rewards=[reached for _, reached in known] or None,
    )
    return search


def _distribution(r: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if r.choice is not None:
        return CategoricalDistribution(r.choice)
    low, high = r.log_uniform or r.uniform or (0.0, 1.0)
    return FloatDistribution(low, high, log=r.log_uniform is not None)


def _measured(work: Work, metric: str) -> list[tuple[dict[str, float], float]]:
    """(class → weight, the metric at the last epoch) of the branches that a search could have chosen."""
    ranges, experiments = work.grid.search.ranges, work.sweep.experiments()
    found = []
    for branch in work.record.branches:
        experiment = experiments.get(branch.name)
        ends = experiment.manifest().ends if experiment else []
        weights = {c: branch.weights[c] for c in ranges}
        inside = all(_inside(r, weights[c]) for c, r in ranges.items())
        if ends and inside and metric in METRICS and metric in ends[-1].metrics:
            found.append((weights, float(ends[-1].metrics[metric])))
    return found


def _inside(r: Range, weight: float) -> bool:
    """Whether a weight could have been drawn from a range."""
    if r.choice is not None:
        return weight in r.choice
    low, high = r.log_uniform or r.uniform or (0.0, 1.0)
    return low <= weight <= high
