"""``verify`` finds what was exchanged or edited beside the checkpoints, and says nothing false of older folders."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raysweep.errors import Interrupted
from raysweep.store import files, layout
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import Recorder, small_settings


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two finished experiments of the same classes that differ in everything else."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    root = tmp_path_factory.mktemp("pair")
    return [
        launching.run(
            experiment_plan.plan_experiment(small_settings(root, seed=seed, training={"epochs": 3}))
        ).experiment
        for seed in (1, 2)
    ]


@pytest.fixture
def run(pair, tmp_path) -> Experiment:
    """A copy of the first, which the test may change."""
    return Experiment(shutil.copytree(pair[0].folder, tmp_path / "e" / pair[0].id))


def faults(experiment: Experiment) -> list[str]:
    from raysweep.tools import derived

    return derived.check(experiment, experiment.entries()).faults


def told(experiment: Experiment) -> list[str]:
    from raysweep.tools import derived

    return derived.check(experiment, experiment.entries()).told


def epoch_that_is_not_the_best(run: Experiment) -> int:
    return next(e.epoch for e in run.entries() if e.epoch != run.manifest().best.epoch)


def test_an_untouched_experiment_has_no_fault(pair, run, tmp_path):
    for experiment in (*pair, run):
        assert (faults(experiment), told(experiment)) == ([], [])
    moved = Experiment(run.folder.rename(tmp_path / "e" / "renamed_20260101_000000"))
    assert (faults(moved), told(moved)) == ([], [])


DERIVED = [
    (layout.BEST, "is not the best epoch's checkpoint"),
    (layout.PREDICTIONS, "are not what was saved"),
    (layout.HISTORY_CSV, "says that"),
    (layout.REPORT, "is not what the predictions of epoch"),
    (layout.CONFUSION, "was not drawn from the predictions of this folder"),
    (layout.HISTORY_PNG, "was not drawn from the history of this folder"),
    ("epoch_1_model.pt", "is not what was saved with checkpoint_epoch_1.pt"),
]


@pytest.mark.parametrize(("name", "what"), DERIVED)
def test_a_file_of_another_experiment_is_found(pair, run, name, what):
    shutil.copyfile(pair[1].folder / name, run.folder / name)
    found = faults(run)
    assert any(fault.startswith(name) and what in fault for fault in found), found


def test_the_best_checkpoint_of_another_epoch_is_found(run):
    other = epoch_that_is_not_the_best(run)
    shutil.copyfile(run.folder / f"checkpoint_epoch_{other}.pt", run.folder / layout.BEST)
    (fault,) = faults(run)
    assert fault.startswith(
        f"{layout.BEST} is checkpoint_epoch_{other}.pt, but the best is {run.manifest().best_file}."
    )


def edited_probabilities(run: Experiment) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run.folder / layout.PREDICTIONS
    table = pq.read_table(path)
    values = table["prediction"].to_numpy().copy()
    values[0] = (values[0] + 1) % 10
    pq.write_table(table.set_column(table.schema.get_field_index("prediction"), "prediction", pa.array(values)), path)


def edited_history(run: Experiment) -> None:
    path = run.folder / layout.HISTORY_CSV
    rows = list(csv.reader(path.read_text().splitlines()))
    rows[2][rows[0].index("val_acc")] = "0.99"
    path.write_text(files.csv_text(rows))


def edited_report(run: Experiment) -> None:
    path = run.folder / layout.REPORT
    path.write_text(path.read_text().replace("accuracy", "ACCURACY", 1))


def edited_picture(run: Experiment) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    path, facts = run.folder / layout.CONFUSION, PngInfo()
    image = Image.open(path)
    for key, value in image.info.items():
        facts.add_text(key, str(value))  # as a program that edits pictures keeps what it does not know
    image.putpixel((5, 5), (255, 0, 0))
    image.save(path, pnginfo=facts)


def replaced_picture(run: Experiment) -> None:
    from PIL import Image

    Image.new("RGB", (50, 50)).save(run.folder / layout.HISTORY_PNG)


def edited_manifest(run: Experiment) -> None:
    path = run.folder / layout.MANIFEST
    value = json.loads(path.read_text())
    value["best"]["value"] = 0.99
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (edited_probabilities, "val_predictions.parquet: those of epoch"),
        (
            edited_history,
            "training_history.csv says that 'val_acc' of epoch 2 is '0.99', but checkpoint_epoch_3.pt says",
        ),
        (edited_report, "classification_report.txt is not what the predictions of epoch"),
        (edited_picture, "confusion_matrix_benchmark.png was changed after it was drawn"),
        (replaced_picture, "training_history.png was not drawn by this program"),
        (edited_manifest, "manifest.json says that the best val_acc is 0.99, but its epoch has"),
    ],
)
def test_an_edit_is_found(run, edit, what):
    edit(run)
    assert [fault for fault in faults(run) if fault.startswith(what)], faults(run)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n.endswith((".pt", ".csv")) else pytest.mark.slow)
        for n, _ in DERIVED
        if not n.startswith("epoch")
    ],
)
def test_a_missing_file_of_a_finished_experiment_is_found_and_continue_writes_it_again(run, name):
    from raysweep.launch.resume import continue_experiment

    (run.folder / name).unlink()
    (fault, *more) = faults(run)
    assert name in fault
    assert not more
    continue_experiment(Root.open(run.folder.parent), run)
    assert faults(run) == ([fault] if name == layout.PREDICTIONS else [])  # a finished experiment predicts nothing more


def test_metrics_of_the_manifest_that_are_not_the_checkpoints_are_found(run):
    from raysweep.store import verify

    entries = [replace(e, metrics={**e.metrics, "val_acc": 0.99}) if e.epoch == 2 else e for e in run.entries()]
    run.write_manifest(replace(run.manifest(), entries=entries))
    assert [verify.problems(run, e) == [] for e in run.entries()] == [True, False, True]
    (fault,) = verify.problems(run, run.entries()[1])
    assert fault.startswith("manifest.json says that val_acc of checkpoint_epoch_2.pt is 0.99, the checkpoint says 0.")


def earlier(run: Experiment) -> None:
    """As earlier versions left a folder: no hashes of predictions and bare weights, a hard link, pictures without texts."""
    import os

    from PIL import Image

    path = run.folder / layout.MANIFEST
    value = json.loads(path.read_text())
    del value["predictions"]
    for row in value["checkpoints"]:
        del row["model_sha256"]
    path.write_text(json.dumps(value))
    (run.folder / layout.BEST).unlink()
    os.link(run.folder / run.manifest().best_file, run.folder / layout.BEST)
    for name in (layout.CONFUSION, layout.HISTORY_PNG):
        Image.open(run.folder / name).convert("RGB").save(run.folder / name, pnginfo=None)


@pytest.mark.slow  # quick twin: an untouched experiment has no fault
def test_nothing_false_is_said_of_a_folder_of_an_earlier_version(run):
    earlier(run)
    assert (faults(run), told(run)) == ([], [])
    replaced_picture(run)  # or another version of matplotlib
    assert faults(run) == []
    assert [text.partition(", ")[0] for text in told(run)] == ["training_history.png was drawn by an earlier version"]


def test_exchanged_predictions_of_an_earlier_version_are_found_by_their_accuracy(pair, run):
    earlier(run)
    shutil.copyfile(pair[1].folder / layout.PREDICTIONS, run.folder / layout.PREDICTIONS)
    assert any("have an accuracy of" in fault for fault in faults(run))


def test_an_earlier_version_that_goes_on_with_a_folder_makes_no_false_alarm(run):
    # it keeps keys that it does not know as they are: the hashes then stand for epochs that the file no longer has
    manifest = run.manifest()
    run.write_manifest(replace(manifest, predictions={1: "0" * 64}))
    assert faults(run) == []


def test_a_save_that_was_killed_leaves_files_behind_or_ahead_and_no_fault(run, tmp_path):
    """The kill came after the commit of epoch 3, before what is derived; then another came before the commit of epoch 4."""
    from raysweep.training.checkpointing import CheckpointWriter

    entry = run.entries()[0]
    log = run.folder / layout.LINEAGE
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    shutil.copyfile(run.folder / entry.file, run.folder / layout.BEST)
    text = (run.folder / layout.HISTORY_CSV).read_text().splitlines(keepends=True)
    (run.folder / layout.HISTORY_CSV).write_text("".join(text[:-1]))
    for name in (layout.REPORT, layout.HISTORY_PNG):
        (run.folder / name).unlink()
    from raysweep.report import predictions

    last = predictions.read(run, 3)
    best = run.manifest().best.epoch
    new = {"labels": last.labels, "probabilities": last.probabilities}
    CheckpointWriter(run.folder, None, last.classes, "val_acc").save_predictions(
        4, new, best, run.manifest().predictions
    )
    assert faults(run) == []
    assert any("training_history.csv has 2 rows, checkpoint_epoch_3.pt has 3" in text for text in told(run))


def test_an_interrupted_run_and_its_continuation_have_no_fault(quick_run, without_ray, tmp_path):
    from raysweep.launch.resume import continue_experiment
    from raysweep.store import catalog

    without_ray(Recorder(stop_after=8))
    with pytest.raises(Interrupted):
        quick_run(training={"epochs": 4})
    without_ray(Recorder())
    root = Root.open(tmp_path / "experiments")
    (stopped,) = catalog.experiments(root)
    assert len(stopped.manifest().ends) == 2
    assert faults(stopped) == []
    continue_experiment(root, stopped)
    assert (faults(stopped), told(stopped)) == ([], [])


def test_the_verb_tells_it_once_for_whole_experiments_only(run, capsys):
    edited_report(run)
    root = run.folder.parent
    code, out, err = run_cli(capsys, "verify", run.id, "--root", root)
    assert code == 1
    assert f"FAULT  {run.id}: classification_report.txt is not what the predictions of epoch" in out
    assert "`raysweep continue" in out
    assert "3 checkpoints checked, 1 fault." in err
    code, out, _ = run_cli(capsys, "verify", f"{run.id}@1", "--root", root)
    assert (code, out.count("ok ")) == (0, 1)


def test_a_running_experiment_is_not_compared_while_it_writes(run):
    from raysweep.store.lock import WriterLock

    (run.folder / layout.REPORT).unlink()
    log = run.folder / layout.LINEAGE
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    lock = WriterLock.acquire(Path(run.folder))
    assert (faults(run), told(run)) == ([], ["it is running, so only its checkpoints were checked"])
    lock.release()
