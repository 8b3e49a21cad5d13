"""``raysweep demo``: train, resume with the same weights, resume with other weights, and check the results."""

from __future__ import annotations

from typing import Any

import typer

from raysweep._text import plain
from raysweep.display.terminal import put, say
from raysweep.store.root import Root

EPOCHS, MORE = 3, 2
IMAGES = 1500  # an epoch
CHANGED = {"disgust": 5.0, "fear": 3.0, "happy": 0.5}


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
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
    where = "" if root == "experiments" else f" --root {root}"
    say(f"Next: raysweep branch --from {base.id}@2 --weights-grid configs/grid.yaml{where}")


def _train(root: Root) -> tuple[Any, Any, Any]:
    """Train the three experiments of the old test script."""
    from raysweep.config import load as load_config
    from raysweep.display.run import RunDisplay
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import parent as parents

    def resume(name: str, description: str, weights: dict[str, float]) -> Any:
        with RunDisplay() as display:
            parent = parents.read_parent(root, f"{base.id}@{EPOCHS}")
            plan = child.plan_child(
                parent, root, name=name, description=description, epochs=MORE, weights=weights, progress=display
            )
            return launching.run(plan, display).experiment

    say(f"1 of 3: {EPOCHS} epochs with unchanged class frequencies")
    settings = {
        "experiment": {"name": "demo", "description": "The demonstration's first experiment"},
        "data": {"source": "faces"},
        "sampling": {"samples_per_epoch": IMAGES},
        "training": {"epochs": EPOCHS},
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


def _checks(base: Any, same: Any, other: Any) -> list[tuple[str, bool]]:
    """(expected property, whether it holds) for every file and result that a user can see."""
    from raysweep.errors import RaysweepError
    from raysweep.report.history import read_history
    from raysweep.store import checkpoint, layout, lineage, ratio
    from raysweep.weights import SamplingWeights

    found = []
    names = [
        layout.CONFIG,
        layout.CHANGES,
        layout.LINEAGE,
        layout.MANIFEST,
        layout.BEST,
        layout.REPORT,
        layout.CONFUSION,
    ]
    names += [layout.HISTORY_CSV, layout.HISTORY_PNG, layout.PREDICTIONS]
    for experiment, last in ((base, EPOCHS), (same, EPOCHS + MORE), (other, EPOCHS + MORE)):
        missing = [n for n in names if not (experiment.folder / n).is_file()]
        found.append(
            (
                f"{experiment.id}: every documented file exists{'; missing: ' + ', '.join(missing) if missing else ''}",
                not missing,
            )
        )
        ends = experiment.manifest().ends
        first = 1 if experiment is base else EPOCHS + 1
        found.append(
            (
                f"{experiment.id}: it has checkpoints of epochs {first} to {last}",
                [e.epoch for e in ends] == list(range(first, last + 1)),
            )
        )
        found.append(
            (
                f"{experiment.id}: every checkpoint has the recorded size and hash",
                all(e.verify(experiment.folder) is None for e in ends),
            )
        )
        history = read_history(experiment)
        found.append(
            (
                f"{experiment.id}: the history has one row for each of {last} epochs",
                history["epoch"] == list(range(1, last + 1)),
            )
        )
    before, after = read_history(base), read_history(same)
    found.append(
        ("the child's history begins with the parent's", all(after[c][:EPOCHS] == v for c, v in before.items()))
    )
    try:
        states = [checkpoint.read_checkpoint(e.folder / e.entry("latest").file) for e in (base, same, other)]
    except RaysweepError as error:
        return [*found, (f"the newest checkpoints can be loaded: {error}", False)]
    batches = states[0]["total_batches"]
    steps = [{float(r["step"]) for r in s["optimizer_state_dict"]["state"].values()} for s in states]
    wanted = [{float(EPOCHS * batches)}, {float((EPOCHS + MORE) * batches)}, {float((EPOCHS + MORE) * batches)}]
    found.append(("the optimizer continues: it has counted the steps of all epochs", steps == wanted))
    kinds = [[event.type for event in lineage.read(e.folder)] for e in (same, other)]
    found.append(("both logs name the checkpoint that they started from", all(lineage.RESUME in k for k in kinds)))
    found.append(("the same weights are not logged as a change of the ratio", lineage.RATIO not in kinds[0]))
    change = ratio.of_fork(other.folder)
    found.append(
        (
            "the change of the ratio is logged with old and new weights",
            change is not None and {c: new for c, (_, new) in change.changed.items()} == CHANGED,
        )
    )
    shown = read_history(other)
    config = other.config()
    weights = SamplingWeights.complete(config.sampling_weights, config.classes or ())
    asked = weights.quotas(config.class_counts or {}, IMAGES)
    real = {c: shown[f"realised_{c}"][-1] for c in asked}
    found.append(("every class was shown exactly as often as its weight requests", real == asked))
    return found
