"""Every difference without the validation images that are also in training: a planted leak that makes an effect is the cause."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from raysweep.report import comparison, content, effects_csv, images, leaks, page, predictions, verdict
from raysweep.report.effects import BETTER, WORSE
from raysweep.report.images import ValidationImages
from raysweep.store import sweep as sweeps
from raysweep.store.records import BranchRef
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root
from tests.cli.test_encodings import call
from tests.cli.test_errors import run_cli
from tests.conftest import small_settings
from tests.report.making import COUNTS, sweep_of, write_predictions

CLASSES = ("rare", "some", "many")
BASE = (0.5, 0.7, 0.8)
LABELS = np.repeat(np.arange(3), COUNTS)
N = len(LABELS)


def told_images(leaked, other_class=False):
    """What the file of the validation images says where these, bool (n,), are in training once each."""
    copies = leaked.astype(np.int32)
    names = [f"val/{CLASSES[c]}/{i:03}.png" for i, c in enumerate(LABELS)]
    pixels = np.array([f"{i:032x}".encode() for i in range(N)], dtype="S32")
    return ValidationImages(names, pixels, copies, np.zeros_like(copies) if other_class else copies)


def first_of(c, count):
    """The first images of a class, bool (n,)."""
    return (c == LABELS) & (np.cumsum(c == LABELS) <= count)


def planted(root, branch, leaked, other_class=False, turned_to=None, recalls=BASE):
    """A sweep with three seeds whose control and branch have the same recalls, but the branch predicts the leaked images as
    ``turned_to``, int (n,): what it has seen in training."""
    sweep = sweep_of(root, CLASSES, BASE, {branch: ({"rare": 5.0}, recalls)}, seeds=(0, 1, 2))
    for name, experiment in sweep.experiments().items():
        images.write(experiment, told_images(leaked, other_class))
        if name.startswith("control") or turned_to is None:
            continue
        last = predictions.read(experiment, 4)
        write_predictions(experiment, CLASSES, LABELS, np.where(leaked, turned_to, last.predicted), 4)
    return sweep


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """25 of the 60 images of rare are also in training; the branch shows rare more often, and knows them by heart."""
    root = tmp_path_factory.mktemp("leaky") / "experiments"
    return planted(root, "rare5", first_of(0, 25), turned_to=LABELS)


def texts(sweep):
    return [line.text for line in verdict.lines(comparison.of_sweep(sweep))]


def test_a_planted_leak_that_makes_an_effect_is_named_as_the_cause(leaky):
    found = comparison.of_sweep(leaky)
    whole = found.of("rare5", "rare", "recall")
    clean = found.leaks.of(whole)
    assert whole.shown == BETTER
    assert clean.shown == ""
    assert (whole.images, clean.images) == (60, 35)
    assert whole.difference > 0.1 > abs(clean.difference)
    assert leaks.changes(found.effects, found.leaks)["rare5", "rare", "recall"].kind == leaks.MADE
    assert found.leaks.images == {"rare": 25}
    first, *others = [line.text for line in verdict.lines(found)]
    assert first.startswith(
        "The verdict changes without the 25 validation images that are also in training (rare 25). "
        "They are the cause of what is shown of "
    )
    assert "rare (rare5)" in first
    (line,) = [text for text in others if text.startswith("rare5: rare: recall")]
    assert (
        f"Without the images that are also in training: recall {verdict.points(clean.difference)} (not shown)" in line
    )
    assert "; on these images alone recall +" in line
    assert line.endswith("They are the cause.")
    assert not any(text.startswith("Learned: rare") for text in others)
    assert all(line.label != BETTER for line in verdict.lines(found))  # nothing is coloured as better


def test_the_differences_without_leaks_are_those_of_the_other_images(leaky):
    found = comparison.of_sweep(leaky)
    kept = ~first_of(0, 25)
    of_right = {}
    for arm in ("", "rare5"):
        right = [n.predictions().predicted == LABELS for n in found.networks[arm]]
        of_right[arm] = np.mean(right, axis=0)
    for c, name in enumerate(CLASSES):
        mine = kept & (c == LABELS)
        expected = (of_right["rare5"] - of_right[""])[mine].mean()
        assert found.leaks.of(found.of("rare5", name, "recall")).difference == pytest.approx(expected, abs=1e-12)
    expected = (of_right["rare5"] - of_right[""])[~kept].mean()
    assert found.leaks.on_leaked["rare5", "rare"] == pytest.approx(expected, abs=1e-12)


def test_copies_under_another_class_make_a_branch_look_worse(tmp_path):
    leaked = first_of(1, 60)
    sweep = planted(tmp_path / "e", "rare5", leaked, other_class=True, turned_to=np.zeros(N, int))
    found = comparison.of_sweep(sweep)
    whole = found.of("rare5", "some", "recall")
    assert (whole.shown, found.leaks.of(whole).shown) == (WORSE, "")
    assert found.leaks.other_class == 60
    first, *others = texts(sweep)
    assert "(some 60; 60 of them under another class). They are the cause of what is shown of" in first
    assert "some (rare5)" in first.partition("the cause of")[2]
    (line,) = [text for text in others if text.startswith("rare5: some: recall")]
    assert "on these images alone recall -" in line
    assert line.endswith("They are the cause.")


def test_a_true_effect_stays_and_the_verdict_is_the_same(tmp_path):
    sweep = planted(tmp_path / "e", "rare5", first_of(0, 3), recalls=(0.95, 0.7, 0.8))
    found = comparison.of_sweep(sweep)
    assert found.leaks.of(found.of("rare5", "rare", "recall")).shown == BETTER
    assert texts(sweep)[0] == (
        "The verdict is the same without the 3 validation images that are also in training (rare 3)."
    )
    assert any(text.startswith("rare5: rare: recall +") and "also in training" not in text for text in texts(sweep))


def test_an_effect_that_leaks_hide_is_shown_without_them(tmp_path):
    """The branch is better, but images that it has seen under another class take that away."""
    leaked = first_of(0, 25)
    sweep = planted(
        tmp_path / "e", "rare5", leaked, other_class=True, turned_to=np.ones(N, int), recalls=(0.95, 0.7, 0.8)
    )
    found = comparison.of_sweep(sweep)
    change = leaks.changes(found.effects, found.leaks)["rare5", "rare", "recall"]
    assert change.kind in (leaks.HIDDEN, leaks.TURNED)
    assert change.clean.shown == BETTER
    first, *others = texts(sweep)
    assert "rare (rare5)" in first
    assert any(text.startswith("rare5: rare: recall") and "(better)" in text for text in others)


def test_the_command_prints_one_more_row_and_fits_80_columns(leaky, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = call(["compare", "s", "--root", leaky.root.path], "utf-8", terminal=True)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    (at,) = [i for i, line in enumerate(out.splitlines()) if line.strip().startswith("rare5")]
    lines = out.splitlines()[at : at + 2]
    assert lines[1].strip().startswith("without leaks")
    marks = [line.count("▲") for line in lines]
    assert marks[0] > marks[1]


def test_one_class_has_one_more_row_too(leaky, capsys):
    code, out, err = run_cli(capsys, "compare", "s", "--class", "rare", "--root", leaky.root.path)
    assert code == 0
    (head, whole, clean, *_) = [line.split("\t") for line in out.splitlines()]
    assert [whole[0], clean[0]] == ["rare5", "  without leaks"]
    assert len(head) == len(whole) == len(clean)
    found = comparison.of_sweep(leaky)
    difference = found.leaks.of(found.of("rare5", "rare", "recall")).difference
    assert clean[1] == f"{100 * difference:+.1f} "
    assert "They are the cause." in err


def test_json_and_csv_have_every_effect_without_leaks(leaky, capsys, tmp_path):
    code, out, _ = run_cli(capsys, "compare", "s", "--root", leaky.root.path, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["leaks"]["images"] == {"rare": 25}
    assert told["leaks"]["under_another_class"] == 0
    kinds = {(c["target"], c["metric"]): c["kind"] for c in told["leaks"]["changed"]}
    assert kinds["rare", "recall"] == "made"
    for row in told["effects"]:
        assert set(leaks.COLUMNS) <= set(row)
        assert row["without_leaks_difference"] is not None or row["difference"] is None
    found = comparison.of_sweep(leaky)
    effects_csv.write(found, tmp_path / "effects.csv")
    rows = list(csv.DictReader((tmp_path / "effects.csv").open()))
    (row,) = [r for r in rows if (r["branch"], r["target"], r["metric"]) == ("rare5", "rare", "recall")]
    clean = found.leaks.of(found.of("rare5", "rare", "recall"))
    assert float(row["without_leaks_difference"]) == pytest.approx(clean.difference)
    assert row["without_leaks_label"] == "not shown"
    assert row["without_leaks_images"] == "35"


def test_without_leaks_nothing_is_added(tmp_path, capsys):
    sweep = planted(tmp_path / "e", "rare5", np.zeros(N, bool))
    found = comparison.of_sweep(sweep)
    assert found.leaks is None
    assert not any("training, too" in n or "also in training" in n for n in [*found.notes, *texts(sweep)])
    effects_csv.write(found, tmp_path / "effects.csv")
    assert "without" not in (tmp_path / "effects.csv").read_text().splitlines()[0]
    _, out, _ = run_cli(capsys, "compare", "s", "--root", sweep.root.path)
    assert "without leaks" not in out
    assert "without leaks" not in page.html(content.of_sweep(sweep))


def test_an_experiment_of_an_earlier_version_says_that_it_is_not_known(tmp_path):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"rare5": ({"rare": 5.0}, BASE)})
    found = comparison.of_sweep(sweep)
    assert found.leaks is None
    assert leaks.UNKNOWN in found.notes


def test_where_every_image_has_leaked_nothing_is_compared_without_them(tmp_path):
    sweep = planted(tmp_path / "e", "rare5", np.ones(N, bool))
    found = comparison.of_sweep(sweep)
    assert found.leaks is None
    assert leaks.NOTHING_LEFT in found.notes


def test_one_branch_of_the_sweep_tells_the_same(leaky):
    branch = leaky.experiments()["rare5-seed0"]
    found = comparison.compare(Root.open(leaky.root.path), [branch.id])
    assert found.leaks.of(found.of(branch.id, "rare", "recall")).images == 35
    assert verdict.lines(found)[0].text.startswith("The verdict changes without the 25 validation images")


def test_the_report_has_a_row_without_leaks_below_each_branch(leaky):
    shown = content.of_sweep(leaky)
    below = 0
    for rows in shown.heat.tables.values():  # one of them has the row of the control's offsets, too
        names = [row.name for row in rows]
        assert names[:2] == ["rare5", "without leaks"]
        assert [row.under for row in rows] == [name == "without leaks" for name in names]
        assert {len(row.cells) for row in rows} == {5}
        below += names.count("without leaks")
    text = page.html(shown)
    assert text.count("without leaks") == below
    assert "Without leaks: without the validation images that are also in training." in text
    assert "The verdict changes without the 25 validation images" in text


def test_by_luck_few_leaks_are_taken_for_the_cause():
    """Leaked images that are like the others: within 5 % they are apart."""
    rng = np.random.default_rng(1)
    gains = rng.choice([-1 / 3, 0, 1 / 3], (1000, 80), p=[0.2, 0.5, 0.3])
    wrong = sum(leaks._apart(row[:20], row[20:], 0.05) != 0 for row in gains)
    assert wrong <= 75  # 5 % of 1,000, and what chance adds
    assert leaks._apart(np.ones(1), np.zeros(50), 0.05) == 0  # of one image nothing is known
    assert leaks._apart(np.full(20, 0.5), np.zeros(50), 1e-6) == 1
    assert leaks._apart(np.full(20, -0.5), np.zeros(50), 1e-6) == -1


def noise(folder, counts, rng):
    """Class folders of images that say nothing of their class."""
    from PIL import Image

    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(folder / name / f"{i:03}.png")


@pytest.mark.slow
@pytest.mark.long
def test_real_trainings_on_noise_learn_nothing_but_the_leak(tmp_path, without_ray):
    """No network can tell these classes apart, but 40 validation images of rare are in training, and the branch learns them by heart.
    Its quick twin is the test of a planted leak."""
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import parent as parents

    folder, rng = tmp_path / "d", np.random.default_rng(0)
    noise(folder / "train", {"rare": 80, "some": 160, "many": 160}, rng)
    noise(folder / "val", {"rare": 60, "some": 120, "many": 120}, rng)
    for i in range(40):
        shutil.copy(folder / "train" / "rare" / f"{i:03}.png", folder / "val" / "rare" / f"copy{i:03}.png")
    settings = small_settings(
        tmp_path / "e",
        data={"source": "folder", "path": str(folder)},
        model={"name": "cnn", "options": {"widths": [16, 16, 32, 32]}},
        training={
            "epochs": 6, "batch_size": 20, "learning_rate": 0.005, "augment": {"crop_padding": 0, "flip": False},
        },
        sampling={"samples_per_epoch": 400, "weights": {"rare": 0.1}},
    )  # fmt: skip
    parent = launching.run(experiment_plan.plan_experiment(settings)).experiment
    root = Root.open(tmp_path / "e")
    known = parents.read_parent(root, f"{parent.id}@6")
    sweep, branches = sweeps.create(root, "s", datetime(2026, 1, 2)), []
    for name, weight in (("control", 0.1), ("rare4", 4.0)):
        for seed in (0, 1, 2):
            branch = {"name": f"{name}-seed{seed}", "control": name == "control", "seed": seed}
            plan = child.plan_child(
                known, root, epochs=30, name=f"s-{branch['name']}", weights={"rare": weight}, overrides={"seed": seed}
            )
            made = launching.run(plan).experiment
            made.write_config(replace(made.config(), sweep=sweep.id, branch=BranchRef(**branch)))
            branches.append({**branch, "weights": made.config().sampling_weights})
    plan = {"id": sweep.id, "name": "s", "parent_weights": parent.config().sampling_weights, "branches": branches}
    sweep.write_record(SweepRecord.from_json(plan))
    found = comparison.of_sweep(sweep)
    recall = found.of("rare4", "rare", "recall")
    assert recall.shown == BETTER
    assert found.leaks.on_leaked["rare4", "rare"] > 0.4
    assert leaks.changes(found.effects, found.leaks)["rare4", "rare", "recall"].kind == leaks.MADE
    first = verdict.lines(found)[0].text
    assert "The verdict changes without the 40 validation images" in first
    assert "rare (rare4)" in first.partition("They are the cause of what is shown of")[2]
