"""Exactness on one, two and three ranks: an undisturbed training = a resumed one = an interrupted and continued one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raysweep.errors import Interrupted
from raysweep.launch import resume as resuming
from raysweep.launch import run as launching
from raysweep.plan import child
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.training.job import Job, Outcome
from tests.conftest import Recorder, small_settings, weights_hash
from tests.training.ranks import Ranks

BATCHES = 5
SECTIONS = {
    "training": {"epochs": 4, "batch_size": 101},  # no multiple of the number of ranks
    "model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.3}},  # so that the generators of every rank count
    "sampling": {"weights": {"3": 4.0}},
}


class Trainer:
    """Replaces Ray's trainer; requests a stop after ``stop_after`` batches."""

    def __init__(self, ranks: Ranks | None) -> None:
        self.ranks = ranks
        self.stop_after: int | None = None

    def __call__(self, job: Job, *_: object) -> Outcome:
        from raysweep.training.loop import train

        if self.ranks is None:
            return train(job, Recorder(self.stop_after))
        return self.ranks.train(job, self.stop_after)


@pytest.fixture(scope="module", params=[1, 2, pytest.param(3, marks=pytest.mark.slow)])
def trainer(request: pytest.FixtureRequest) -> Iterator[Trainer]:
    if request.param == 3:
        with Ranks(3) as ranks:
            yield Trainer(ranks)
    else:
        yield Trainer(request.getfixturevalue("two_ranks") if request.param == 2 else None)


@pytest.fixture
def run(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from raysweep.launch.workers import start as workers

    monkeypatch.setattr(workers, "in_this_process", trainer)
    return lambda stop_after=None, **sections: go(trainer, tmp_path, stop_after, **sections)


def go(trainer: Trainer, root: Path, stop_after: int | None = None, **sections: object) -> Experiment:
    plan = experiment_plan.plan_experiment(small_settings(root, **{**SECTIONS, **sections}))
    trainer.stop_after = stop_after
    try:
        return launching.run(plan).experiment
    except Interrupted:
        return Experiment(max(root.glob("small_*"), key=lambda p: p.stat().st_mtime_ns))
    finally:
        trainer.stop_after = None


@pytest.fixture(scope="module")
def straight(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    from raysweep.launch.workers import start as workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", trainer)
        return go(trainer, tmp_path_factory.mktemp("straight"))


@pytest.mark.slow  # quick twin: interrupted and continued
def test_two_epochs_and_two_more_in_a_child_equal_four(run, straight, tmp_path):
    half = run(training={**SECTIONS["training"], "epochs": 2, "schedule_epochs": 4})
    parent = parents.read_parent(Root.open(tmp_path), f"{half.id}@2")
    whole = launching.run(child.plan_child(parent, Root.open(tmp_path), epochs=2)).experiment
    assert weights_hash(whole) == weights_hash(straight)


@pytest.mark.parametrize(
    "stop_after",
    [pytest.param(1, marks=pytest.mark.slow), BATCHES + 3, pytest.param(2 * BATCHES, marks=pytest.mark.slow)],
)  # in the first epoch, in the second, at its end
def test_interrupted_and_continued_equals_undisturbed(run, straight, tmp_path, stop_after):
    broken = run(stop_after)
    assert broken.status() == "interrupted"
    assert broken.entries()[-1].epoch == 1 + (stop_after - 1) // BATCHES
    done = resuming.continue_experiment(Root.open(tmp_path), broken.id).experiment
    assert done.status() == "finished"
    assert weights_hash(done) == weights_hash(straight)


def test_every_rank_has_its_own_generators(straight, trainer):
    from raysweep.store import checkpoint

    size = 1 if trainer.ranks is None else len(trainer.ranks.pipes)
    saved = checkpoint.read_checkpoint(straight.folder / straight.entry("latest").file)
    assert saved["world_size"] == len(saved["rng_state"]) == size
    assert len({bytes(r["torch"].numpy().tobytes()) for r in saved["rng_state"]}) == size


def test_a_continued_epoch_counts_each_image_once_where_a_batch_has_fewer_images_than_ranks(run, tmp_path):
    tiny = {"training": {"epochs": 1, "batch_size": 2}, "sampling": {"samples_per_epoch": 12}}
    broken = run(4, **tiny)
    assert broken.entries()[-1].batch == 4
    done = resuming.continue_experiment(Root.open(tmp_path), broken.id).experiment
    header, line = (done.folder / "training_history.csv").read_text().splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=True))
    assert sum(int(row[f"realised_{c}"]) for c in "0123456789") == 12


def ratios_by_epoch(experiment: Experiment) -> dict[int, dict[str, float]]:
    """Epoch → the weights that its log says, from the configuration and every change."""
    from raysweep.store import lineage

    now, found = dict(experiment.config().sampling_weights), {}
    changes = {e.fields["epoch"]: e.fields for e in lineage.read(experiment.folder) if e.type == lineage.RATIO}
    for entry in experiment.manifest().ends:
        now = dict(changes[entry.epoch]["new_weights"]) if entry.epoch in changes else now
        found[entry.epoch] = now
    return found


@pytest.mark.parametrize(
    "sampling",
    [
        {"schedule": [{"from": 1}, {"from": 3, "weights": "balanced", "linear": True}]},
        {"holdout": 0.2, "policy": {"kind": "worst", "classes": 2, "share": 0.7}},
    ],
    ids=["schedule", "policy"],
)
def test_the_order_is_that_of_the_recorded_ratio_on_any_number_of_ranks(run, monkeypatch, sampling):
    """What is expected knows nothing of ranks. The same for one, two and three: so their orders are the same, too."""
    from raysweep.config.settings import Settings
    from raysweep.data import cache, decoded
    from raysweep.data import sampling as drawing
    from raysweep.launch import runner
    from raysweep.weights import SamplingWeights

    monkeypatch.setattr(runner, "derive", lambda *_: None)  # pictures take longer than the training
    patient = {**SECTIONS["training"], "epochs": 3, "patience": 3}  # so that the ranks agree on that, too
    made = run(training=patient, sampling={"weights": {"3": 4.0}, **sampling})
    settings = Settings.model_validate(made.config().settings)
    data = cache.load(settings.data, decoded.cache_dir(None, made.root))
    _, members = cache.holdout_and_pool(data, settings.sampling, settings.data.split_seed)
    weights = ratios_by_epoch(made)
    assert len({tuple(w.values()) for w in weights.values()}) >= 2
    for entry in made.manifest().ends:
        of_epoch = SamplingWeights.complete(weights[entry.epoch], data.classes)
        order = drawing.epoch_order(
            data.train.labels, members, data.classes, of_epoch, 500, seed=settings.seed, epoch=entry.epoch
        )
        assert entry.metrics["order_sha256"] == drawing.order_hash(order), entry.epoch
        of_class = dict(zip(data.classes, (data.train.labels[order] == c for c in range(10)), strict=True))
        shares = of_epoch.shares({c: int((data.train.labels[members] == i).sum()) for i, c in enumerate(data.classes)})
        assert all(abs(int(of_class[c].sum()) - 500 * shares[c]) < 1 + 1e-6 for c in data.classes)


def test_all_ranks_stop_early_after_the_same_epoch(run, monkeypatch):
    from raysweep.launch import runner
    from tests.training.test_patience import last_by_hand

    monkeypatch.setattr(runner, "derive", lambda *_: None)
    made = run(training={**SECTIONS["training"], "epochs": 9, "learning_rate": 1e-9, "patience": 1})
    assert made.status() == "finished"
    assert made.manifest().ends[-1].epoch == last_by_hand(made) < 9
