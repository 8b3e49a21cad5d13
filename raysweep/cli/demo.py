"""``raysweep demo``: train, resume with the same weights, resume with other weights, and check the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put, say, say_next
from raysweep.store.root import Root

EPOCHS, MORE = 3, 2
IMAGES = 1500  # per epoch
SETTINGS: dict[str, Any] = {"data": {"source": "faces"}, "training": {"epochs": EPOCHS}}
CHANGED = {"disgust": 5.0, "fear": 3.0, "happy": 0.5}

if TYPE_CHECKING:
    from raysweep.store.experiment import Experiment


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    root: RootOption = "experiments",
) -> None:
    """Run a demonstration and check its results. Trains 3 epochs on built-in images, resumes for 2 epochs with the same and
    with other weights, and shows the logs."""
    from raysweep.errors import TrainingError

    place = Root.open(root)
    base, same, other = _train(place)
    faults = 0
    for what, right in _checks(base, same, other):
        put(f"{'ok   ' if right else 'FAULT'}  {what}")
        faults += not right
    for experiment in (same, other):
        put("")
        put(plain(experiment.folder / "experiment_changes.log"))
        for line in (experiment.folder / "experiment_changes.log").read_text(encoding="utf-8").splitlines():
            put(f"  {plain(line)}")
    put("")
    from raysweep.report import tree

    for guides, name, about in tree.lines(tree.build(place, base.id)):
        put(f"{plain(guides)}{plain(name)}  {plain(about)}")
    if faults:
        raise TrainingError(
            f"{faults} of the demonstration's checks failed; see above. Please report this with the output of `raysweep doctor`."
        )
    say("All checks passed.")
    from raysweep.cli.run import GRID
    from raysweep.plan import advice

    say_next(base.root, *advice.following(base, GRID))


def _train(root: Root) -> tuple[Experiment, Experiment, Experiment]:
    """Train three experiments: one from scratch, and two children of it, with the same and with other weights."""
    from raysweep.config import load as load_config
    from raysweep.display.run import RunDisplay
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import parent as parents

    def resume(name: str, description: str, weights: dict[str, float]) -> Experiment:
        with RunDisplay() as display:
            parent = parents.read_parent(root, f"{base.id}@{EPOCHS}")
            plan = child.plan_child(
                parent, root, name=name, description=description, epochs=MORE, weights=weights, progress=display
            )
            return launching.run(plan, display).experiment

    say(f"1 of 3: {EPOCHS} epochs with unchanged class frequencies")
    settings = SETTINGS | {
        "experiment": {"name": "demo", "description": "The demonstration's first experiment"},
        "sampling": {"samples_per_epoch": IMAGES},
        "root": root.address,
    }
    with RunDisplay() as display:
        base = launching.run(
            experiment_plan.plan_experiment(load_config.validate(settings), display), display
        ).experiment
    say(f"2 of 3: {MORE} more epochs with the same weights")
    same = resume("demo-same", "Resumed with the same weights", {})
    say(f"3 of 3: {MORE} more epochs with {', '.join(f'{c} {w:g}' for c, w in CHANGED.items())}")
    return base, same, resume("demo-other", "Resumed with different sampling weights", CHANGED)


Check = tuple[str, bool]  # an expected property, and whether it holds


def _checks(base: Experiment, same: Experiment, other: Experiment) -> list[Check]:
    """Every property that a user can see, of the files and of the results."""
    from raysweep.errors import RaysweepError

    found = [*_folder(base, 1, EPOCHS)]
    for child in (same, other):
        found += _folder(child, EPOCHS + 1, EPOCHS + MORE)
    try:
        found += _continuity(base, same, other)
    except RaysweepError as error:
        return [*found, (f"the newest checkpoints can be loaded: {error}", False)]
    return [*found, *_logs(same, other), _drawn(other)]


def _folder(experiment: Experiment, first: int, last: int) -> list[Check]:
    """The files of one experiment, which trained the epochs ``first`` to ``last``."""
    from raysweep.report.history import read_history
    from raysweep.store import layout

    names = [layout.CONFIG, layout.CHANGES, layout.LINEAGE, layout.MANIFEST, layout.BEST, layout.REPORT]
    names += [layout.CONFUSION, layout.HISTORY_CSV, layout.HISTORY_PNG, layout.PREDICTIONS, layout.VAL_IMAGES]
    missing = [n for n in names if not (experiment.folder / n).is_file()]
    ends = experiment.manifest().ends
    epochs = list(range(first, last + 1))
    found = [
        (f"every documented file exists{'; missing: ' + ', '.join(missing) if missing else ''}", not missing),
        (f"it has checkpoints of epochs {first} to {last}", [e.epoch for e in ends] == epochs),
        ("every checkpoint has the recorded size and hash", all(e.verify(experiment.folder) is None for e in ends)),
        (
            f"the history has one row for each of {last} epochs",
            read_history(experiment)["epoch"] == list(range(1, last + 1)),
        ),
    ]
    return [(f"{experiment.id}: {what}", right) for what, right in found]


def _continuity(base: Experiment, same: Experiment, other: Experiment) -> list[Check]:
    """Model and optimizer of the children start from the parent's state.

    Raises:
        CheckpointError: a newest checkpoint cannot be read.
    """
    from raysweep.report.history import read_history
    from raysweep.store import checkpoint

    before, after = read_history(base), read_history(same)
    states = [checkpoint.read_checkpoint(e.folder / e.entry("latest").file) for e in (base, same, other)]
    batches = states[0]["total_batches"]
    steps = [{float(r["step"]) for r in s["optimizer_state_dict"]["state"].values()} for s in states]
    wanted = [{float(EPOCHS * batches)}, {float((EPOCHS + MORE) * batches)}, {float((EPOCHS + MORE) * batches)}]
    return [
        ("the child's history begins with the parent's", all(after[c][:EPOCHS] == v for c, v in before.items())),
        ("the optimizer continues: it has counted the steps of all epochs", steps == wanted),
    ]


def _logs(same: Experiment, other: Experiment) -> list[Check]:
    from raysweep.store import lineage, ratio

    kinds = [[event.type for event in lineage.read(e.folder)] for e in (same, other)]
    change = ratio.of_fork(other.folder)
    logged = None if change is None else {c: new for c, (_, new) in change.changed.items()}
    return [
        ("both logs name the checkpoint that they started from", all(lineage.RESUME in k for k in kinds)),
        ("the same weights are not logged as a change of the ratio", lineage.RATIO not in kinds[0]),
        ("the change of the ratio is logged with old and new weights", logged == CHANGED),
    ]


def _drawn(other: Experiment) -> Check:
    from raysweep.report.history import read_history
    from raysweep.weights import SamplingWeights

    shown, config = read_history(other), other.config()
    weights = SamplingWeights.complete(config.sampling_weights, config.classes or ())
    asked = weights.quotas(config.class_counts or {}, IMAGES)
    real = {c: shown[f"realised_{c}"][-1] for c in asked}
    return "every class was shown exactly as often as its weight requests", real == asked
