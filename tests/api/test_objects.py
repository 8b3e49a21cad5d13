"""Experiments and sweeps in a user's hands: the same numbers as the files and the commands, and errors that say what to do."""

from __future__ import annotations

import csv
import json
import math
import os

import pytest

from tests.cli.test_encodings import call
from tests.report.making import made as one_made
from tests.report.making import no_curves, sweep_of

NAMES = ("angry", "b", "c")
BRANCHES = {"angry5": ({"angry": 5.0}, (0.95, 0.7, 0.8)), "c3": ({"c": 3.0}, (0.4, 0.7, 0.5))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return sweep_of(tmp_path_factory.mktemp("objects") / "e", NAMES, (0.4, 0.7, 0.8), BRANCHES)


@pytest.fixture(scope="module")
def sweep(made):
    import raysweep

    return raysweep.get_sweep("s", made.root.address)


def command(*words: object) -> object:
    code, out, err = call([*words, "--json"], "utf-8")
    assert code == 0, err
    return json.loads(out)


def test_a_sweep_becomes_a_table_of_its_branches(sweep):
    frame = sweep.to_pandas()
    with open(sweep.folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert frame["branch"].tolist() == [r["branch"] for r in rows]
    assert len(frame) == 6
    assert frame["recall_angry"].tolist() == [float(r["recall_angry"]) for r in rows]
    row = frame.set_index("branch").loc["angry5-seed1"]
    control = frame.set_index("branch").loc["control-seed1"]
    assert row["val_acc_minus_control"] == pytest.approx(row["val_acc"] - control["val_acc"])
    assert math.isnan(control["val_acc_minus_control"]) or control["val_acc_minus_control"] == 0
    assert row["weight_angry"] == 5.0


def test_effects_are_those_that_the_command_prints(sweep):
    printed = {
        (r["branch"], r["target"], r["metric"]): r
        for r in command("compare", sweep.id, "--root", sweep.root)["effects"]
    }
    frame = sweep.effects()
    assert {(r.branch, r.target, r.metric) for r in frame.itertuples()} == set(printed)
    for row in frame.itertuples():
        other = printed[row.branch, row.target, row.metric]
        assert row.difference == pytest.approx(other["difference"], nan_ok=True)
        assert row.label == other["label"]
    assert set(sweep.effects("recall")["metric"]) == {"recall"}
    assert set(sweep.effects(of_class="angry")["target"]) == {"angry"}
    assert len(sweep.effects("learned", "c")) == 2


@pytest.mark.parametrize(("asked", "told"), [(("recal",), "'recall'"), ((None, "angri"), "'angry'")])
def test_an_effect_that_there_is_not_is_refused_with_what_was_meant(sweep, asked, told):
    import raysweep

    with pytest.raises(raysweep.InputError, match=f"Did you mean {told}"):
        sweep.effects(*asked)


def test_the_best_is_the_first_seed_of_the_winner(sweep, made):
    assert sweep.winner.branch == "angry5"
    assert sweep.best == sweep.experiments["angry5-seed0"]
    assert sweep.best.id == made.experiments()["angry5-seed0"].id
    assert [line for line in sweep.verdict if "angry5" in line]


def test_the_best_of_branches_that_gained_nothing_is_the_control(tmp_path):
    import raysweep

    worse = {"b2": ({"b": 2.0}, (0.1, 0.2, 0.3)), "b3": ({"b": 3.0}, (0.2, 0.1, 0.2))}
    made = sweep_of(tmp_path / "e", NAMES, (0.4, 0.7, 0.8), worse, seeds=(0,))
    sweep = raysweep.get_sweep("s", made.root.address)
    assert sweep.winner.gain < 0
    assert sweep.best.id == made.experiments()["control"].id


def test_without_a_control_there_is_no_best(tmp_path):
    import raysweep

    made = sweep_of(tmp_path / "e", NAMES, (0.4, 0.7, 0.8), BRANCHES, seeds=(0,), control=False)
    with pytest.raises(raysweep.InputError, match="no finished control"):
        raysweep.get_sweep("s", made.root.address).best  # noqa: B018


def test_functions_and_methods_say_the_same(sweep):
    import raysweep

    found = raysweep.compare(sweep)
    assert found.verdict == sweep.verdict == command("compare", sweep.id, "--root", sweep.root)["verdict"]
    assert found.to_pandas().equals(sweep.effects())
    first, second = (sweep.experiments[n] for n in ("control-seed0", "angry5-seed0"))
    assert raysweep.compare(first, second).title == f"{first.id} and 1 more"
    assert raysweep.compare(second).title == second.id
    suggested, printed = raysweep.suggest(sweep), command("suggest", sweep.id, "--root", sweep.root)
    assert suggested.grid == {k: v for k, v in printed["grid"].items() if v is not None}
    assert suggested.parent == printed["from"]
    tree = raysweep.lineage(root=sweep.root)
    assert json.loads(json.dumps(tree.rows())) == command("lineage", "--root", sweep.root)
    assert len(raysweep.lineage(second)) == 2  # its parent, and itself


def test_a_suggestion_is_saved_once_and_is_a_grid(sweep, tmp_path):
    import raysweep
    from raysweep.config import grid

    found = raysweep.suggest(sweep)
    path = found.save(tmp_path / "grid.yaml")
    assert grid.read(path) == grid.check(found.grid)
    with pytest.raises(raysweep.InputError, match="the file exists"):
        found.save(path)


def test_wrong_arguments_of_functions(sweep):
    import raysweep

    with pytest.raises(raysweep.InputError, match="choose one of macro_f1, accuracy"):
        raysweep.suggest(sweep, "recall")
    with pytest.raises(raysweep.InputError, match="is an experiment; suggest takes a sweep"):
        raysweep.suggest(sweep.best)
    with pytest.raises(raysweep.InputError, match="Name a sweep"):
        raysweep.compare()
    with pytest.raises(raysweep.InputError, match=r"is an experiment, not a sweep. get_experiment\('s-angry5"):
        raysweep.get_sweep("s-angry5-seed0", sweep.root)
    with pytest.raises(raysweep.NotFoundError, match="Did you mean 's_20260102_030405'"):
        raysweep.get_sweep("s_20260102_03045", sweep.root)
    with pytest.raises(raysweep.NotFoundError, match=r"is a sweep, not a checkpoint.*such as \.best\.best"):
        raysweep.branch(sweep, {"weights": {"b": [2.0]}})
    with pytest.raises(
        raysweep.NotFoundError, match=r"is an experiment, not a checkpoint.*such as \.best, or s-angry5-seed0"
    ):
        raysweep.resume(sweep.best)


def test_a_report_is_written_where_it_is_wanted(sweep, tmp_path, monkeypatch):
    import raysweep

    no_curves(monkeypatch)
    assert sweep.report(tmp_path / "mine.html") == tmp_path / "mine.html"
    assert "angry5" in (tmp_path / "mine.html").read_text()
    with pytest.raises(raysweep.InputError, match=r"such as report\.html"):
        sweep.report(tmp_path / "missing" / "mine.html")
    with pytest.raises(raysweep.InputError, match=r"such as report\.html"):
        sweep.best.report(tmp_path)


def test_the_history_has_the_values_of_the_file(sweep):
    experiment = sweep.experiments["c3-seed0"]
    frame = experiment.history
    with open(experiment.folder / "training_history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert frame.index.tolist() == [1, 2, 3, 4]
    assert frame.index.name == "epoch"
    for column in ("train_loss", "val_acc", "recall_c", "realised_angry"):
        assert frame[column].tolist() == [float(r[column]) for r in rows]


def test_a_history_that_is_not_there_yet_or_damaged(tmp_path):
    import raysweep
    from raysweep.store import experiment as experiments
    from raysweep.store.records import ExperimentConfig
    from raysweep.store.root import Root

    new = experiments.create(Root.open(tmp_path / "e"), "new")
    new.write_config(ExperimentConfig.from_json({"experiment_name": "new", "num_epochs": 2}))
    found = raysweep.get_experiment("new", tmp_path / "e")
    assert found.history.empty
    assert list(found.checkpoints) == []
    with pytest.raises(raysweep.NotFoundError, match="none yet"):
        found.best  # noqa: B018
    assert "0 of 2 epochs" in repr(found)
    broken = one_made(tmp_path / "e", "broken", NAMES, (0.4, 0.7, 0.8))
    (broken.folder / "training_history.csv").write_text("epoch,val_acc\n1,half\n")
    with pytest.raises(raysweep.StoreError, match="is damaged"):
        raysweep.get_experiment("broken", tmp_path / "e").history  # noqa: B018
    (broken.folder / "experiment_config.json").write_text("{")
    assert "is not valid JSON" in repr(raysweep.get_experiment("broken", tmp_path / "e"))


def test_cells_without_a_number_are_nan(tmp_path):
    import raysweep

    made = one_made(tmp_path / "e", "gaps", NAMES, (0.4, 0.7, 0.8))
    (made.folder / "training_history.csv").write_text("epoch,val_acc,recall_b\n1,0.5,\n2,0.25,1\n")
    history = raysweep.get_experiment("gaps", tmp_path / "e").history
    assert history["val_acc"].tolist() == [0.5, 0.25]
    assert math.isnan(history.loc[1, "recall_b"])
    assert history.loc[2, "recall_b"] == 1.0


def test_checkpoints_are_paths_and_references(sweep):
    import raysweep

    experiment = sweep.experiments["angry5-seed0"]
    assert [c.epoch for c in experiment.checkpoints] == [3, 4]
    assert [c.best for c in experiment.checkpoints] == [False, True]
    assert experiment.best == experiment.latest == experiment[4]
    assert experiment[3].reference == f"{experiment.id}@3"
    assert os.fspath(experiment[3]) == str(experiment.folder / "checkpoint_epoch_3.pt")
    with pytest.raises(raysweep.NotFoundError, match="has the epochs 3, 4"):
        experiment[1]
    with pytest.raises(TypeError):
        iter(experiment)


def test_the_root_of_the_environment_is_used_where_none_is_named(sweep, monkeypatch, tmp_path):
    import raysweep

    monkeypatch.chdir(tmp_path)
    with pytest.raises(raysweep.NotFoundError):
        raysweep.get_sweep("s")
    monkeypatch.setenv("RAYSWEEP_ROOT", sweep.root)
    assert raysweep.get_sweep("s") == sweep
    assert len(raysweep.list_experiments()) == 7
    assert raysweep.get_experiment(sweep.best.folder) == sweep.best
    assert {sweep.best, raysweep.get_experiment(sweep.best.id)} == {sweep.best}


def test_branches_that_failed_are_told_with_the_reason(tmp_path):
    import raysweep

    made = sweep_of(tmp_path / "e", NAMES, (0.4, 0.7, 0.8), BRANCHES, seeds=(0,))
    record = made.record().to_json()
    record["branches"][1] |= {"status": "failed", "reason": "out of memory"}
    (made.folder / "sweep.json").write_text(json.dumps(record))
    assert raysweep.get_sweep("s", tmp_path / "e").failed == {"angry5": "out of memory"}


def test_a_sweep_that_is_damaged_shows_that(tmp_path):
    import raysweep

    made = sweep_of(tmp_path / "e", NAMES, (0.4, 0.7, 0.8), BRANCHES, seeds=(0,))
    found = raysweep.get_sweep("s", tmp_path / "e")
    (made.folder / "results.csv").unlink()
    assert found.to_pandas()["branch"].tolist() == ["control", "angry5", "c3"]
    (made.folder / "sweep.json").write_text("{")
    assert "is not valid JSON" in repr(found)
