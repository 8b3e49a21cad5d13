"""A user's own code for other options than the model: what it is given, the same bits after a stop, its source, its errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raysweep.errors import ConfigError
from raysweep.launch import resume as resuming
from raysweep.plan import experiment as experiment_plan
from raysweep.store.root import Root
from tests.conftest import small_settings, weights_hash
from tests.training.test_exactness import interrupted

SMALL = {"sampling": {"samples_per_epoch": 300}, "training": {"batch_size": 100, "label_smoothing": 0.0}}
HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"


def sections(**more):
    return {key: {**SMALL.get(key, {}), **more.get(key, {})} for key in {*SMALL, *more}}


def planned(tmp_path: Path, **more):
    return experiment_plan.plan_experiment(small_settings(tmp_path / "experiments", **sections(**more)))


def told(tmp_path: Path, **more) -> str:
    return " ".join(note.text for note in planned(tmp_path, **more).notes)


# --- a loss -----------------------------------------------------------------------------------------------------------


def loss_of(code, section=None, counts=None):
    import torch

    from raysweep.config.treatment import LossSection
    from raysweep.training import own, own_loss

    found = own.Own("loss.kind", "mine:loss", None, code)
    section = LossSection.model_validate({"kind": "python:mine:loss", **(section or {})})
    return own_loss.OwnLoss(found, section, counts or {"a": 30, "b": 10}, torch.device("cpu"))


def test_a_loss_gets_what_it_takes_and_no_more():
    import torch
    from torch import nn

    given: dict = {}

    def every(logits, targets, class_counts, epoch, sample_weights):
        given.update(counts=class_counts.tolist(), epoch=epoch, weights=sample_weights.tolist())
        return logits.sum(1)

    class Two(nn.Module):
        def __init__(self, num_classes, class_counts):
            super().__init__()
            given.update(built=(num_classes, class_counts.tolist()))

        def forward(self, logits, targets):
            return logits.mean()

    logits, y, shares = (
        torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        torch.tensor([0, 1, 1]),
        {"a": 0.75, "b": 0.25},
    )
    counts = {"a": 30, "b": 10}
    weighted = loss_of(every, {"weights": "balanced", "from_epoch": 3})
    assert weighted.of_epoch(shares, counts, 2)(logits, y).item() == 21.0
    assert given == {"counts": [30, 10], "epoch": 2, "weights": [1.0, 1.0, 1.0]}
    weighted.of_epoch(shares, counts, 3)(logits, y)
    assert given["weights"] == pytest.approx([2 / 3, 2.0, 2.0])  # 1/30 and 1/10, with a mean of 1 over the images shown
    assert loss_of(Two).of_epoch(shares, counts, 1)(logits, y).item() == pytest.approx(
        3.5 * 3
    )  # a mean, times the images
    assert given["built"] == (2, [30, 10])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def loss(logits, targets):\n    return logits.sum(0)",
            r"returned a tensor of torch.float32 and shape \(10,\)",
        ),
        ("def loss(logits, targets):\n    return 3.0", "returned float for 20 images"),
        (
            "def loss(logits, targets):\n    return F.cross_entropy(logits, targets).detach()",
            "does not depend on the logits",
        ),
        ("def loss(logits, targets):\n    return helper\n", r"NameError: name 'helper' .*mine\.py, line 5, in loss"),
        (
            "class loss(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.c = nn.Linear(2, 2)",
            "has parameters",
        ),
        ("loss = 3", "cannot be called"),
        ("import nothing_like_it", "Install nothing_like_it"),
        ("", r"the module 'mine' \(.*\) has no function 'loss'"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_before_anything_is_made(project, tmp_path, code, message):
    project(mine=f"{HEAD}{code}\n")
    with pytest.raises(ConfigError, match=rf"(?s)^loss\.kind: .*{message}"):
        planned(tmp_path, loss={"kind": "python:mine:loss"})
    assert not list((tmp_path / "experiments").glob("small_*"))


def test_weights_that_a_loss_does_not_take_are_refused(project, tmp_path):
    project(mine=f"{HEAD}def loss(logits, targets):\n    return F.cross_entropy(logits, targets)\n")
    with pytest.raises(ConfigError, match=r"does not take sample_weights, so loss\.weights would have no effect"):
        planned(tmp_path, loss={"kind": "python:mine:loss", "weights": "balanced"})
    assert "label_smoothing is not applied" in told(
        tmp_path, loss={"kind": "python:mine:loss"}, training={"label_smoothing": 0.1}
    )


@pytest.mark.parametrize("word", ["python:mine", "python::loss", "python:my mine:loss", "focall"])
def test_a_word_that_is_no_name_is_refused(word):
    with pytest.raises(ConfigError, match=r"loss\.kind: .*python:MODULE:NAME"):
        small_settings("x", loss={"kind": word})


KEEPS = """
class loss:
    count = 0

    def __call__(self, logits, targets):
        self.count += 1
        return F.cross_entropy(logits, targets, reduction="none") * self.count
"""


def test_what_no_checkpoint_holds_is_said_before_and_after_a_stop(project, tmp_path, without_ray):
    project(mine=HEAD + KEEPS)
    made = interrupted(tmp_path, without_ray, 4, **sections(loss={"kind": "python:mine:loss"}))
    log = (made.folder / "experiment_changes.log").read_text()
    assert "not bit-exact once it is interrupted: python:mine:loss (loss.kind) changes attributes" in log
    done = resuming.continue_experiment(Root.open(tmp_path / "experiments"), made.id).experiment
    log = (done.folder / "experiment_changes.log").read_text()
    assert "not bit-exact: python:mine:loss had changed attributes that the checkpoint does not hold" in log


def test_the_source_is_kept_and_its_change_is_said(project, tmp_path, without_ray, quick_child, capsys):
    from tests.cli.test_errors import run_cli

    text = f"{HEAD}from parts import scale\ndef loss(logits, targets):\n    return scale * F.cross_entropy(logits, targets)\n"
    folder = project(mine=text, parts="scale = 1\n")
    made = interrupted(tmp_path, without_ray, 3, **sections(loss={"kind": "python:mine:loss"}))
    assert {p.read_text() for p in (made.folder / "code").iterdir()} == {text, "scale = 1\n"}
    config = made.config()
    (record,) = config.own_code
    assert (record.option, record.target, record.folder, [*record.files]) == (
        "loss.kind",
        "mine:loss",
        str(folder),
        ["mine.py", "parts.py"],
    )
    assert config.settings["code_path"] == str(folder)
    project(parts="scale = 2\n")
    child = quick_child(f"{made.id}@1", epochs=1)
    assert (
        "the code of python:mine:loss is not that which the checkpoint was trained with: imported file parts.py"
        in (child.folder / "experiment_changes.log").read_text()
    )
    code, out, err = run_cli(capsys, "diff", made.id, child.id, "--root", tmp_path / "experiments")
    assert code == 0, err
    assert "parts.py" in out
    resuming.continue_experiment(Root.open(tmp_path / "experiments"), made.id)
    log = (made.folder / "experiment_changes.log").read_text()
    assert "the code of python:mine:loss is no longer that with which this experiment began: parts.py" in log
    assert "not bit-exact: imported file parts.py" in log
    assert len(list((made.folder / "code").iterdir())) == 3  # both states of it


# --- the examples of the document -------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "own_code.md").read_text()
FILES = {m[1]: m[0] for m in re.finditer(r"(?s)(?<=```python\n)# (\w+)\.py\n.*?(?=```)", PAGE)}
COMMANDS = re.findall(r"^raysweep run data=\S+ (.*python:.*)$", PAGE, re.MULTILINE)


def words(command: str) -> dict:
    from raysweep.config import load as load_config

    return load_config.parse_overrides(command.split())


def test_the_document_has_examples():
    assert {"loss"} <= {key for command in COMMANDS for key in words(command)}
    assert len(FILES) == len(COMMANDS)


def stopped_equals_undisturbed(tmp_path, quick_run, without_ray, given) -> None:
    """Stopped within the second epoch, and continued; and a child of the first epoch."""
    from raysweep.config import load as load_config

    parts = load_config.merge(SMALL, given)
    whole = quick_run(**parts)
    assert "not bit-exact" not in (whole.folder / "experiment_changes.log").read_text()
    broken = interrupted(tmp_path, without_ray, 5, **parts)
    done = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    assert "not bit-exact" not in (done.folder / "experiment_changes.log").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_of_the_document_runs_and_is_exact(project, tmp_path, quick_run, without_ray, command):
    project(**FILES)
    stopped_equals_undisturbed(tmp_path, quick_run, without_ray, words(command))
