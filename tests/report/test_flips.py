"""The images that a branch fixed and broke: counted by hand on made predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from raysweep.errors import InputError
from raysweep.report import flips, images, predictions
from raysweep.report.predictions import Predictions
from raysweep.store import layout
from tests.cli.test_errors import run_cli
from tests.report.making import sweep_of, write_predictions
from tests.report.test_leaks import BASE, CLASSES, LABELS, first_of, told_images

RARE, SOME, MANY = range(3)


def network(predicted, sure=0.8):
    """A network that predicts these classes with this probability."""
    shares = np.full((len(predicted), 3), (1 - sure) / 2, dtype=np.float32)
    shares[np.arange(len(predicted)), predicted] = sure
    return Predictions(1, CLASSES, np.zeros(len(predicted), int), np.array(predicted), shares)


def test_most_networks_decide_and_among_equals_the_mean_probability():
    found = flips.voted([network([0, 1, 2]), network([0, 1, 1], sure=0.6), network([1, 1, 0], sure=0.5)])
    assert found.top.tolist() == [0, 1, 2]  # of the last image each says another class; the first network is surest
    assert found.votes.tolist() == [2, 3, 1]
    assert found.seeds == 3


def test_every_kind():
    labels = np.array([RARE, RARE, RARE, RARE, SOME, SOME, MANY])
    old = flips.voted([network([SOME, RARE, SOME, RARE, SOME, RARE, MANY])])
    new = flips.voted([network([RARE, SOME, MANY, RARE, RARE, SOME, SOME])])
    every = {f.index: f.kind for f in flips.between(old, new, labels, CLASSES, None)}
    assert every == {0: flips.FIXED, 1: flips.BROKEN, 2: flips.OTHER, 4: flips.BROKEN, 5: flips.FIXED, 6: flips.BROKEN}
    rare = {f.index: f.kind for f in flips.between(old, new, labels, CLASSES, None, RARE)}
    assert rare == {0: flips.FIXED, 1: flips.BROKEN, 2: flips.OTHER, 4: flips.ALARM, 5: flips.QUIET}


def test_the_class_s_own_images_come_before_its_alarms():
    labels = np.array([SOME, SOME, RARE, RARE])
    old = flips.voted([network([SOME, RARE, RARE, SOME])] * 2)
    new = flips.voted([network([RARE, SOME, SOME, RARE])] * 2)
    kinds = [f.kind for f in flips.between(old, new, labels, CLASSES, None, RARE)]
    assert kinds == [flips.FIXED, flips.BROKEN, flips.ALARM, flips.QUIET]


def test_those_that_most_networks_agree_on_come_first():
    labels = np.zeros(3, int)
    old = flips.voted([network([1, 1, 1])] * 4)
    new = flips.voted([network([0, 0, 0]), network([0, 0, 0]), network([1, 0, 0]), network([1, 1, 0])])
    assert [f.index for f in flips.between(old, new, labels, CLASSES, None)] == [2, 1, 0]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The control calls all as it is, but 12 images of rare are some. The branch fixes 10 of these in all seeds and breaks 4 of many,
    which two of three seeds call rare."""
    root = tmp_path_factory.mktemp("flips") / "experiments"
    sweep = sweep_of(root, CLASSES, BASE, {"rare5": ({"rare": 5.0}, BASE)}, seeds=(0, 1, 2))
    control = np.where(first_of(RARE, 12), SOME, LABELS)
    fixed = np.where(first_of(RARE, 10), RARE, control)
    broken = np.where(first_of(MANY, 4), RARE, fixed)
    for name, experiment in sweep.experiments().items():
        predicted = control if name.startswith("control") else fixed if name.endswith("2") else broken
        write_predictions(experiment, CLASSES, LABELS, predicted, 4)
        images.write(experiment, told_images(first_of(RARE, 1)))
    return sweep


def test_a_branch_lists_what_it_fixed_and_broke(sweep):
    found = flips.of_branch(sweep, "rare5")
    assert found.counts == {flips.FIXED: 10, flips.BROKEN: 4}
    assert (found.old_seeds, found.new_seeds, found.reference) == (3, 3, "the control")
    first, last = found.flips[0], found.flips[-1]
    assert (first.kind, first.old, first.old_votes, first.new, first.new_votes) == (flips.FIXED, "some", 3, "rare", 3)
    assert (last.kind, last.true, last.old, last.new, last.new_votes) == (flips.BROKEN, "many", "many", "rare", 2)
    by_name = {f.name: f for f in found.flips}
    assert by_name["val/rare/000.png"].in_training == 1
    assert by_name["val/rare/001.png"].in_training == 0


def test_one_class_has_its_images_and_its_false_alarms(sweep):
    assert flips.of_branch(sweep, "rare5", "rare").counts == {flips.FIXED: 10, flips.ALARM: 4}
    assert flips.of_branch(sweep, "rare5", "some").counts == {flips.QUIET: 10}
    assert flips.of_branch(sweep, "rare5", "many").counts == {flips.BROKEN: 4}


@pytest.mark.parametrize("which", ["rare5", "rare5-seed1", "id"])
def test_a_branch_is_found_by_its_name_with_or_without_the_seed_or_its_id(sweep, which):
    name = sweep.experiments()["rare5-seed1"].id if which == "id" else which
    assert flips.of_branch(sweep, name).branch == "rare5"


def test_a_wrong_branch_or_class_is_an_error_that_names_the_others(sweep):
    for wrong in ("rare6", "control", "control-seed0", ""):
        with pytest.raises(InputError, match=r"has no finished branch .*Its branches are rare5\."):
            flips.of_branch(sweep, wrong)
    with pytest.raises(InputError, match="--class rar: the classes are rare, some, many"):
        flips.of_branch(sweep, "rare5", "rar")


def test_the_command(sweep, capsys):
    root = sweep.root.path
    code, out, err = run_cli(capsys, "flips", "s", "rare5", "--class", "rare", "--root", root)
    assert code == 0
    head, *rows = [line.split("\t") for line in out.splitlines()]
    assert head == ["image", "class", "", "before", "after"]
    alarms = [["many", "false alarm", "many 3/3", "rare 2/3"]] * 4
    assert [row[1:] for row in rows[-4:]] == alarms  # after those that all networks agree on
    assert {row[0] for row in rows[-4:]} == {f"val/many/{i}.png" for i in range(210, 214)}
    assert ["val/rare/000.png (in training, too)", "rare", "fixed", "some 3/3", "rare 3/3"] in rows
    assert len(rows) == 14
    assert "says nothing of what was learned" in err
    code, out, _ = run_cli(capsys, "flips", "s", "rare5", "--class", "rare", "--root", root, "--json")
    told = json.loads(out)
    assert (code, told["counts"]) == (0, {"fixed": 10, "false alarm": 4})
    assert (told["branch"], told["class"], told["reference_seeds"], told["branch_seeds"]) == ("rare5", "rare", 3, 3)
    image = told["images"][0]
    assert (image["true"], image["kind"], image["old"], image["new"], image["new_votes"]) == ("rare", "fixed", "some", "rare", 3)  # fmt: skip
    code, _, err = run_cli(capsys, "flips", sweep.experiments()["rare5-seed0"].id, "rare5", "--root", root)
    assert code == 2
    assert "is an experiment. Name a sweep" in err


def test_it_fits_80_columns(sweep, monkeypatch):
    from tests.cli.test_encodings import call

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = call(["flips", "s", "rare5", "--root", sweep.root.path], "utf-8", terminal=True)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "10 fixed, 4 broken" in out


def test_without_names_the_positions_are_told(tmp_path, capsys):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"rare5": ({"rare": 5.0}, (0.9, 0.7, 0.8))})
    for experiment in sweep.experiments().values():
        assert not (experiment.folder / layout.VAL_IMAGES).exists()  # as an earlier version left it
    code, out, err = run_cli(capsys, "flips", "s", "rare5", "--class", "rare", "--root", sweep.root.path)
    assert code == 0
    assert out.splitlines()[1].startswith("image ")
    assert "The names of the images are not known" in err


def test_a_branch_like_its_control_has_no_flips(tmp_path, capsys):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"rare5": ({"rare": 5.0}, BASE)}, seeds=(0,))
    mine = sweep.experiments()
    (last,) = predictions.read_all(mine["control"]).values()
    write_predictions(mine["rare5"], CLASSES, LABELS, last.predicted, 4)
    code, out, err = run_cli(capsys, "flips", "s", "rare5", "--root", sweep.root.path)
    assert (code, out) == (0, "")
    assert "no image is predicted otherwise" in err
