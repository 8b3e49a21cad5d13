"""A sweep where an image has several labels, and everything that reads it; and what refuses such data before anything is made."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from raysweep.config import grid as grids
from raysweep.errors import ConfigError, DataError, InputError, WeightsError
from raysweep.plan import sweep as sweep_plan
from raysweep.plan.types import SweepRequest
from raysweep.store import layout
from tests.cli.test_errors import run_cli
from tests.conftest import Recorder, small_settings, weights_hash
from tests.labelled import LABELS, draw, sections
from tests.launch.sweep.test_processes import Threads

GRID = {"weights": {"star": [4.0]}, "seeds": [0, 1], "epochs": 1}


def planned(root, parent, grid=GRID, **options):
    return sweep_plan.plan_sweep(
        SweepRequest(root, f"{parent}@1", grids.check(grid), name="s", in_process=True, **options)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the root, the parent, the sweep)."""
    from raysweep.launch import run as launching
    from raysweep.launch import runner
    from raysweep.launch.sweep import driver, processes
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train

    folder = tmp_path_factory.mktemp("labels")
    table = draw(folder / "data", 160, split=True)
    options = sections(table, experiment={"name": "parent"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, Recorder()))
        patch.setattr(processes, "_start", Threads())
        plan = experiment_plan.plan_experiment(small_settings(folder / "experiments", **options))
        parent = launching.run(plan).experiment
        patch.setattr(runner, "derive", lambda *_: None)  # the pictures of every branch
        result = driver.run(planned(parent.root, parent.id, max_concurrent=1), lambda _: None)
    return parent.root, parent, result.sweep


def command(capsys, made, *words):
    code, out, err = run_cli(capsys, *words, "--root", made[0].address)
    assert code == 0, err
    return out


def test_the_control_continues_its_parent_to_the_bit_and_results_have_the_mean_precision(made):
    _, parent, sweep = made
    assert weights_hash(sweep.experiments()["control-seed0"]) == weights_hash(parent)
    record = sweep.record()
    assert (record.grid["select"], record.grid["metric"], record.format_version) == ("mAP", "mAP", 2)
    with open(sweep.folder / layout.RESULTS) as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["mAP"]) > 0 for row in rows)
    assert float(rows[0]["mAP_minus_control"]) == 0


def test_compare_has_every_label_and_is_told_on_the_page(made, capsys):
    _, _, sweep = made
    found = json.loads(command(capsys, made, "compare", "s", "--json"))
    rows = {(e["target"], e["metric"]): e for e in found["effects"] if e["branch"] == "control + offsets"}
    assert {m for t, m in rows if t == "(all)"} == {"macro_f1", "accuracy", "mAP"}
    assert rows["(all)", "mAP"]["difference"] == 0  # it is the same at every threshold
    of = {(e["target"], e["metric"]): e for e in found["effects"] if e["branch"] != "control + offsets"}
    assert set(LABELS) == {target for target, _ in of} - {"(all)"}
    assert {"mAP", "macro_f1", "accuracy", "learned", "log_loss", "brier"} <= {m for t, m in of if t == "(all)"}
    assert of["star", "recall"]["free"] is not None
    assert found["branches"][0]["images"] == 2 * 80  # of two seeds, each image once, however many labels it has
    assert found["winner"] is None or found["winner"]["among"] == 1
    out = command(capsys, made, "compare", "s")
    assert "mAP" in out
    command(capsys, made, "compare", "s", "--class", "star")
    assert "mAP" in command(capsys, made, "power", "s")
    page = (sweep.folder / "report.html").read_text()
    assert "Labels together" in page
    assert "<th>mAP</th>" in page
    assert "worst label (recall)" in page
    assert "Confusion matri" not in page
    assert "raysweep suggest" not in page
    assert (sweep.folder / layout.EFFECTS_PNG).stat().st_size > 1000


def test_evaluate_looks_at_the_sealed_images_of_the_winner(made, capsys):
    found = json.loads(command(capsys, made, "evaluate", "s", "--json"))
    assert found["format_version"] == 2
    assert found["gain"]["metric"] == "mAP"
    assert (found["images"], found["look"]) == (40, 1)
    assert not [note for note in found["notes"] if "lack the label" in note]
    arm = found["arms"][0]
    assert set(arm["overall"]) >= {"mAP", "accuracy", "log_loss"}
    there, predicted = (np.array(arm[key]) for key in ("together", "predicted_together"))
    assert there.diagonal().tolist() == [2 * found["counts"][c] for c in found["classes"]]  # two seeds
    assert (predicted <= there.diagonal()[:, None]).all()
    free = found["moved"]  # mAP is the same at every threshold, macro-F1 is not
    assert free["metric"] == "macro_f1"
    assert free["overall"]["mAP"] == pytest.approx(found["arms"][1]["overall"]["mAP"]["value"])
    told = command(capsys, made, "evaluate", "parent", "--split", "val")
    assert "second" not in told
    for row in told.splitlines():  # no ± reaches below 0 or above 100
        for cell in row.split("\t"):
            value, _, half = cell.partition(" ±")
            assert not half or float(half) <= float(value) <= 100 - float(half), cell
    assert "100.0)" in told
    assert os.path.exists(os.path.join(found["folder"], "confusion_matrix.png"))


def evaluated(made, folder, told, images=20):
    """The parent on other images, with the table that ``told`` makes of their labels: (the result, the table, the labels of each)."""
    from raysweep.tools import evaluate

    table = draw(folder, images, seed=5)
    with open(table) as file:
        rows = [(row["path"], row["labels"].split("|")) for row in csv.DictReader(file)]
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(told(rows))
    over = {"data": {"path": str(table)}}
    return evaluate.evaluate(made[0], made[1].id, overrides=over), table, [labels for _, labels in rows]


def test_labels_that_other_data_lack_are_named_with_what_they_move(made, tmp_path):
    columns = LABELS[:2]
    found, _, labels = evaluated(
        made,
        tmp_path / "other",
        lambda rows: [["path", *columns], *([p, *(int(c in has) for c in columns)] for p, has in rows)],
    )
    (note,) = [note for note in found.notes if "lack the label star" in note]
    assert "accuracy" in note
    assert found.counts == {c: sum(c in has for has in labels) for c in columns} | {"star": 0}


def test_data_with_one_of_the_labels_can_be_evaluated_and_not_trained_on(made, tmp_path):
    from raysweep.config.settings import DataSection
    from raysweep.data import cache

    found, table, labels = evaluated(
        made, tmp_path / "other", lambda rows: [["path", "labels"], *([p, "disc" * ("disc" in has)] for p, has in rows)]
    )
    assert found.counts == {"disc": sum("disc" in has for has in labels), "ring": 0, "star": 0}
    assert [note for note in found.notes if "lack the labels ring, star" in note]
    data = DataSection(path=str(table), multi_label=True, image_size=12, channels=1)
    cache.load(data, tmp_path / "cache", least=1)
    with pytest.raises(DataError, match="a single label"):  # what an evaluation has decoded is refused, too
        cache.load(data, tmp_path / "cache")
    with pytest.raises(DataError, match="no image has a label"):
        evaluated(made, tmp_path / "none", lambda rows: [["path", "labels"], *([p, ""] for p, _ in rows)])


def test_predictions_and_exports_are_of_sigmoids(made, tmp_path, capsys):
    from raysweep.report import predictions

    _, parent, _ = made
    data = parent.config().setting("data", "path")
    images = [os.path.join(os.path.dirname(data), f"{i:04}.png") for i in (2, 6)]  # for validation
    rows = json.loads(command(capsys, made, "predict", "parent@latest", *images, "--json"))
    kept = predictions.read(parent, 2)
    names = json.loads(json.dumps([row["probabilities"] for row in rows]))
    for told, row in zip(names, rows, strict=True):
        mine = np.array([told[c] for c in kept.classes])
        assert np.abs(kept.probabilities - mine).max(1).min() < 1e-5
        assert row["labels"] == [c for c, p in told.items() if p > 0.5]
    moved = json.loads(command(capsys, made, "predict", "parent@latest", *images, "--adjust", "macro_f1", "--json"))
    command(
        capsys, made, "export", "parent@latest", "--to", "torchscript", "-o", tmp_path / "m.pt", "--adjust", "macro_f1"
    )
    offsets = json.loads((tmp_path / "m.pt.json").read_text())["adjusted"]["offsets"]
    for before, after in zip(rows, moved, strict=True):  # each label's logit moves by its own offset
        assert after["adjusted"] == "macro_f1"
        assert after["labels"] == [c for c, p in after["probabilities"].items() if p > 0.5]
        for c, add in offsets.items():
            was, now = (np.float64(row["probabilities"][c]) for row in (before, after))
            assert np.log(now / (1 - now)) - np.log(was / (1 - was)) == pytest.approx(add, abs=1e-3)
    target = tmp_path / "p.csv"
    command(capsys, made, "predict", "parent@latest", *images, "--csv", target)
    assert target.read_text().startswith("image,labels,")
    command(capsys, made, "export", "parent@latest", "--to", "torchscript", "-o", tmp_path / "net.pt")
    assert "sigmoid" in json.loads((tmp_path / "net.pt.json").read_text())["output"]["meaning"]


def test_what_only_reads_works(made, capsys):
    _, parent, _ = made
    rows = json.loads(command(capsys, made, "list", "--json"))
    mine = next(r for r in rows if r["id"] == parent.id)
    assert mine["metrics"]["mAP"] > 0
    shown = command(capsys, made, "show", "parent")
    assert "star" in shown
    assert "worst label" in shown
    command(capsys, made, "lineage")
    command(capsys, made, "verify", "parent")
    command(capsys, made, "verify", "parent", "--replay")
    command(capsys, made, "diff", "parent@1", "parent@2")
    command(capsys, made, "prune", "--dry-run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("suggest", "s"), "not built for several labels"),
        (("flips", "s", "star=4"), "not built for several labels"),
        (("predict", "parent@latest", "IMAGE", "--adjust", "accuracy"), "thresholds are fitted for macro-F1"),
        (("predict", "parent@latest", "IMAGE", "--series"), "not built for several labels"),
        (("hunt", "--from", "parent@1", "--branches", "3", "--dry-run"), "not built for several labels"),
        (("show", "parent", "--augmented", "4", "-o", "sheet.png"), "not built for several labels"),
        (("init", "LIST", "data.multi_label=true"), "not built for several labels"),
        (("audit", "LIST", "data.multi_label=true"), "not built for several labels"),
        (("import", "LIST", "data.multi_label=true"), ""),
        (("evaluate", "parent", "data.multi_label=false"), "data.multi_label"),
        (("resume", "--from", "parent@1", "data.multi_label=false", "--dry-run"), "belongs to a lineage"),
    ],
)
def test_everything_else_refuses_before_anything_is_made(made, tmp_path, capsys, monkeypatch, words, message):
    root, parent, _ = made
    monkeypatch.chdir(tmp_path)
    data = str(parent.config().setting("data", "path"))
    places = {"IMAGE": os.path.join(os.path.dirname(data), "0002.png"), "LIST": data}
    before = sorted(p.name for p in root.path.iterdir())
    code, _, err = run_cli(capsys, *(places.get(w, w) for w in words), "--root", root.address)
    assert code == 2, err
    assert message in err
    assert sorted(p.name for p in root.path.iterdir()) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({**GRID, "scheduler": "race"}, "race is not built"),
        ({**GRID, "select": "balanced_accuracy"}, "select: balanced_accuracy"),
        ({**GRID, "data": {"folds": 3}}, "folds"),
        ({"shares": {"star": [0.5]}, "epochs": 1}, "cannot have shares"),
        ({"weights": {"star": ["50%"]}, "epochs": 1}, "share"),
        ({"policies": [{"kind": "worst", "on": "val"}], "epochs": 1}, "sampling.policy"),
        ({"settings": {"loss.kind": ["ldam"]}, "epochs": 1}, "loss.kind"),
    ],
)
def test_a_grid_of_one_class_for_each_image_is_refused(made, grid, message):
    root, parent, _ = made
    with pytest.raises((ConfigError, InputError, WeightsError), match=message):
        planned(root, parent.id, grid)


def test_rules_and_losses_may_be_varied(made):
    root, parent, _ = made
    grid = {"weights": ["sqrt", "balanced"], "settings": {"loss.kind": ["focal", "class_weights"]}, "epochs": 1}
    plan = planned(root, parent.id, grid)
    assert len(plan.points) == 1 + 2 + 2 * 2  # the control, one of each cell, and the branches


def test_the_mean_precision_is_a_metric_of_several_labels_only():
    grid = grids.check({"weights": {"3": [2.0]}, "select": "mAP"})
    with pytest.raises(ConfigError, match="mAP is a metric of several labels"):
        grid.of_data(several=False)
    assert grids.check(GRID).of_data(several=False).select == "macro_f1"
    assert grids.check({**GRID, "select": "accuracy"}).of_data(several=True).select == "accuracy"
