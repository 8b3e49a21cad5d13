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
    made = interrupted(tmp_path, without_ray, 2, **sections(loss={"kind": "python:mine:loss"}))
    log = (made.folder / "experiment_changes.log").read_text()
    assert "not bit-exact once it is interrupted: python:mine:loss (loss.kind) changes attributes" in log
    done = resuming.continue_experiment(Root.open(tmp_path / "experiments"), made.id).experiment
    log = (done.folder / "experiment_changes.log").read_text()
    assert "not bit-exact: python:mine:loss had changed attributes that the checkpoint does not hold" in log


@pytest.mark.slow  # quick twin: test_guest.py, whose code changes
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


# --- metrics ----------------------------------------------------------------------------------------------------------

METRICS = """
import numpy as np
def share(labels, probabilities, classes):
    np.random.seed(1)
    assert len(classes) == probabilities.shape[1]
    return (probabilities.argmax(1) == labels).mean()
def nan(labels, probabilities):
    return float("nan") if len(labels) > 20 else 0.5
def writes(labels, probabilities):
    probabilities[:] = 0
def text(labels, probabilities):
    return "good"
"""


@pytest.mark.slow  # quick twin: the examples of the document
def test_a_metric_stands_in_history_list_and_manifest_and_changes_no_bit(
    project, tmp_path, quick_run, quick_child, capsys
):
    import json

    import pandas as pd

    from tests.cli.test_errors import run_cli

    project(mine=METRICS)
    plain = quick_run(**sections())
    named = {"share": "python:mine:share", "nan": "python:mine:nan"}
    made = quick_run(**sections(metrics=named, training={"best_metric": "share"}))
    assert weights_hash(made) == weights_hash(plain)
    history = pd.read_csv(made.folder / "training_history.csv")
    assert history["share"].tolist() == history["val_acc"].tolist()
    assert history["nan"].isna().all()
    manifest = made.manifest()
    assert (manifest.best.metric, manifest.best.value) == ("share", history["share"].max())
    code, out, err = run_cli(capsys, "list", "--json", "--root", tmp_path / "experiments")
    assert code == 0, err
    rows = {row["id"]: row["metrics"] for row in json.loads(out)}
    assert rows == {plain.id: {}, made.id: {"share": manifest.best.value, "nan": None}}
    assert "share" in run_cli(capsys, "list", "--root", tmp_path / "experiments")[1]
    child = quick_child(f"{plain.id}@1", epochs=1, overrides={"metrics": {"share": "python:mine:share"}})
    assert pd.read_csv(child.folder / "training_history.csv")["share"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [("writes", "read-only"), ("text", "returned str. Return one number"), ("missing", "has no function 'missing'")],
)
def test_a_metric_that_cannot_be_used_is_refused(project, tmp_path, name, message):
    project(mine=METRICS)
    with pytest.raises(ConfigError, match=rf"^metrics\.m: .*{message}"):
        planned(tmp_path, metrics={"m": f"python:mine:{name}"})


def test_a_best_metric_that_is_no_number_ends_the_training(project, tmp_path, quick_run):
    from raysweep.errors import TrainingError

    project(mine=METRICS)
    with pytest.raises(TrainingError, match=r"metrics\.m is no finite number .*python:mine:nan"):
        quick_run(**sections(metrics={"m": "python:mine:nan"}, training={"best_metric": "m"}))


def test_names_of_metrics_are_checked(quick_run):
    import pandas as pd

    from raysweep.config import own

    for name in ("val_acc", "recall_x", "a b", "", "1st"):
        with pytest.raises(ConfigError, match="metrics"):
            small_settings("x", metrics={name: "python:a:b"})
    with pytest.raises(
        ConfigError, match=r"best_metric is 'other', not one of val_acc, macro_f1, balanced_accuracy, g"
    ):
        small_settings("x", metrics={"g": "python:a:b"}, training={"best_metric": "other"})
    made = quick_run(**sections(training={"epochs": 1}))
    for column in pd.read_csv(made.folder / "training_history.csv"):
        with pytest.raises(ValueError, match="column"):
            own.check_metric(column)


# --- optimizers and schedules -----------------------------------------------------------------------------------------

STEPS = """
class Forgets(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.count = 0
    def step(self):
        self.count += 1
        for g in self.param_groups: g["lr"] = 0.1 / self.count
        super().step()
class InGroups(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)
        for g in self.param_groups: g["count"] = 0
    def step(self):
        for g in self.param_groups:
            g["count"] += 1
            for p in g["params"]: p.data -= g["lr"] / g["count"] * p.grad
def half(params): return torch.optim.SGD(params[:1], 0.1)
def text(params): return "text"
class Closure(torch.optim.SGD):
    def step(self, closure): raise ValueError(closure)
class Odd(torch.optim.SGD):
    def step(self):
        for g in self.param_groups: g["memory"] = {1}
count = 0
def counts(done):
    global count
    count += 1
    return count
def negative(done): return -done
"""


@pytest.mark.slow  # torch's optimizers import its compiler; the examples of the document have one of ours below
def test_the_optimizers_of_torch_have_names_like_ones_own(quick_run):
    same = {"epochs": 1, "weight_decay": 0.0, "momentum": 0.9}
    ours = quick_run(**sections(training={"optimizer": "sgd", **same}))
    name = "python:torch.optim:SGD"
    theirs = quick_run(**sections(training={"optimizer": name, **same}))
    assert theirs.config().own_code == ()
    assert theirs.manifest().ends[-1].metrics["val_acc"] == pytest.approx(
        ours.manifest().ends[-1].metrics["val_acc"], abs=0.02
    )


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("optimizer", "half", "does not train the parameters"),
        ("optimizer", "text", r"returned str\. Return a torch"),
        ("optimizer", "Closure", "missing 1 required positional argument: 'closure'"),
        ("optimizer", "Odd", "keeps set in its state_dict"),
        ("schedule", "counts", "two numbers for one position"),
        ("schedule", "negative", r"returned -0\.\d+ after"),
        ("schedule", "text", "returned str"),
        ("schedule", "torch.optim.lr_scheduler.StepLR", "Schedulers of torch count steps"),
    ],
)
def test_an_optimizer_or_schedule_that_cannot_be_used_is_refused(project, tmp_path, option, name, message):
    project(mine=HEAD + STEPS)
    with pytest.raises(ConfigError, match=rf"^training\.{option}: .*{message}"):
        planned(tmp_path, training={option: f"python:mine:{name}"})


def test_an_optimizer_that_keeps_more_than_its_state_is_named_as_inexact(project, tmp_path, without_ray):
    project(mine=HEAD + STEPS)
    named = {"training": {"optimizer": "python:mine:Forgets", "weight_decay": 0.0}}
    made = interrupted(tmp_path, without_ray, 2, **sections(**named))
    assert (
        "not bit-exact once it is interrupted: python:mine:Forgets"
        in (made.folder / "experiment_changes.log").read_text()
    )
    done = resuming.continue_experiment(Root.open(tmp_path / "experiments"), made.id).experiment
    assert (
        "not bit-exact: python:mine:Forgets (training.optimizer) keeps more than"
        in (done.folder / "experiment_changes.log").read_text()
    )


def test_what_an_optimizer_keeps_in_its_groups_goes_on_and_hyperparameters_can_change(project, tmp_path):
    import torch

    from raysweep.training import own, own_optim

    project(mine=HEAD + STEPS)
    settings = small_settings(tmp_path, training={"optimizer": "python:mine:InGroups"})
    code, training = own.load(settings, True)["training.optimizer"], settings.training
    told, why = own_optim.tried(code, training)
    assert (why, len(told)) == ([], 1)  # the weight decay, which it does not take
    group = {"params": [torch.nn.Parameter(torch.ones(2, 2))], "weight_decay": 0.3}
    old = own_optim.optimizer(code, [group], training)
    old.param_groups[0].update(count=7, lr=9.0)
    new = own_optim.optimizer(code, [group], training)
    own_optim.restore(code, new, old.state_dict(), training)
    assert (new.param_groups[0]["count"], new.param_groups[0]["lr"]) == (7, training.learning_rate)


def test_the_state_of_another_optimizer_is_refused(project, quick_run, quick_child):
    from raysweep.errors import CheckpointError

    project(mine=HEAD + STEPS)
    made = quick_run(**sections(training={"epochs": 1}))
    for fresh in (False, True):
        options = {
            "epochs": 1,
            "overrides": {"training": {"optimizer": "python:mine:InGroups"}},
            "fresh_optimizer": fresh,
        }
        if fresh:
            quick_child(f"{made.id}@1", **options)
        else:
            with pytest.raises(CheckpointError, match="is of another optimizer"):
                quick_child(f"{made.id}@1", **options)


# --- augmentations and policies -----------------------------------------------------------------------------------------

AUGMENTS = """
def shape(images): return images[:, :, 1:]
def numbers(images): return images.numpy()
own = torch.Generator().manual_seed(1)
def alone(images): return images + torch.rand(1, generator=own)
def same(images): return images
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape", r"returned torch.float32 \(4, 1, 7, 8\) for images"),
        ("numbers", "returned ndarray"),
        ("own", "TypeError|has no function|object is not callable|is no function"),
    ],
)
def test_an_augmentation_that_cannot_be_used_is_refused(project, tmp_path, name, message):
    project(mine=HEAD + AUGMENTS)
    with pytest.raises(ConfigError, match=rf"^training\.augment\.own: .*({message})"):
        planned(tmp_path, training={"augment": f"python:mine:{name}"})


def test_random_numbers_of_its_own_are_named_as_inexact(project, tmp_path):
    project(mine=HEAD + AUGMENTS)
    text = told(tmp_path, training={"augment": "python:mine:alone"})
    assert "not bit-exact once it is interrupted: python:mine:alone (training.augment) draws random numbers" in text


@pytest.mark.slow  # quick twin: the examples of the document
def test_an_augmentation_stands_instead_of_ours_or_after_them(project, quick_run):
    project(mine=HEAD + AUGMENTS)
    short = small_settings("x", training={"augment": "python:mine:same"}).training.augment
    assert (short.own, short.crop_padding, short.flip) == ("python:mine:same", 0, False)
    ours = quick_run(**sections(training={"epochs": 1}))  # shifted
    both = quick_run(**sections(training={"epochs": 1, "augment": {"own": "python:mine:same"}}))
    instead = quick_run(**sections(training={"epochs": 1, "augment": "python:mine:same"}))
    rates = [e.manifest().ends[-1].metrics["train_loss"] for e in (ours, both, instead)]
    assert rates[1] == pytest.approx(rates[0], rel=1e-4)  # the numbers went through [0, 1]
    assert rates[2] != pytest.approx(rates[0], rel=1e-4)


def test_the_generator_depends_on_seed_epoch_and_position():
    import torch

    from raysweep.training import own, own_augment

    code = own.Own(
        "training.augment.own", "m:f", None, lambda images, generator: torch.rand(images.shape, generator=generator)
    )
    images = torch.zeros(2, 1, 8, 8)
    drawn = {at: own_augment.of_batch(code, *at)(images) for at in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 100))}
    assert torch.equal(own_augment.of_batch(code, 0, 1, 0)(images), drawn[0, 1, 0])
    assert len({tuple(x.flatten().tolist()) for x in drawn.values()}) == 4


def decided(function):
    from raysweep.training import own, own_policy
    from raysweep.weights import SamplingWeights

    counts = {"a": 40, "b": 10, "c": 10}
    natural = SamplingWeights.complete({}, tuple(counts))
    code = own.Own("sampling.policy.kind", "m:f", None, function)
    return own_policy.decided(code, 3, *own.made_up(3), natural, natural, counts).shares(counts)


def test_a_policy_names_the_shares_of_some_classes_or_of_all():
    assert decided(lambda labels, probabilities: {"a": 0.5}) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25})
    assert decided(lambda labels, probabilities, **more: {"a": 0.2, "b": 0.3, "c": 0.5}) == pytest.approx(
        {"a": 0.2, "b": 0.3, "c": 0.5}
    )
    given: dict = {}
    decided(lambda labels, probabilities, epoch, shares, counts, classes: given.update(locals()) or {})
    assert (given["epoch"], given["classes"], given["counts"]["a"]) == (3, ("a", "b", "c"), 40)
    assert given["shares"] == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([0.5], "returned list. Return a mapping"),
        ({"z": 0.5}, "there is no class 'z'"),
        ({"a": 0.5, "b": 0.5, "c": 0.5}, "add up to 1.5, not to 1"),
        ({"a": -0.1}, "from 0 to 1"),
        ({"a": float("nan")}, "from 0 to 1"),
        ({"a": 1.5}, "cannot be used"),
    ],
)
def test_shares_that_cannot_be_used_are_refused(found, message):
    with pytest.raises(ConfigError, match=message):
        decided(lambda labels, probabilities: found)


# --- images -----------------------------------------------------------------------------------------------------------

IMAGES = """
import io, numpy as np
from pathlib import Path
from PIL import Image

def pixels(shape=(12, 12)):
    draws = np.random.default_rng(0)
    labels = [i % 3 for i in range(60)]
    return [draws.integers(0, 256, shape, dtype=np.uint8) for _ in labels], labels

class Items:
    classes = ["cat", "dog", "eel"]
    def __init__(self, form, named=True):
        self.images, numbers = pixels()
        self.form, self.numbers = form, numbers
        if named: self.targets = torch.tensor(numbers)
    def __len__(self): return len(self.images)
    def __getitem__(self, i): return self.form(self.images[i], self.numbers[i])

def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()

def arrays():
    images, labels = pixels()
    return np.stack(images), [Items.classes[i] for i in labels]
def tensors(): return Items(lambda image, label: (torch.from_numpy(image)[None], label))
def pairs(): return Items(lambda image, label: (Image.fromarray(image), label), named=False)
def encoded(): return Items(lambda image, label: png(image))
def files(path):
    for i, image in enumerate(pixels()[0]):
        Path(path, f"{i}.png").write_bytes(png(image))
    return Items(lambda image, label, count=iter(range(10**6)): f"{next(count) % 60}.png")
ready = Items(lambda image, label: image)
def floats(): return [image / 255 for image in pixels()[0]], pixels()[1]
def fewer(): return pixels()[0], pixels()[1][1:]
def nothing(): return 3
def unlabelled(): return pixels()[0]
def words(): return {"train": ready, "other": ready}
def fails(): return Items(lambda image, label: 1 / 0)
"""


def loaded(tmp_path: Path, name: str, path: str | None = None):
    from raysweep.data import cache
    from raysweep.plan import networks

    given = {"source": f"python:mine:{name}", "path": path}
    settings = small_settings(tmp_path, data=given)
    networks.provide_images(settings, trusted=True)
    return cache.load(settings.data, tmp_path / "cache")


def test_images_of_every_form_give_the_same_data(project, tmp_path):
    project(mine=HEAD + IMAGES)
    (tmp_path / "files").mkdir()
    names = ("arrays", "tensors", "pairs", "encoded", "ready")
    found = {loaded(tmp_path, name).sha256 for name in names} | {
        loaded(tmp_path, "files", str(tmp_path / "files")).sha256
    }
    assert len(found) == 1
    data = loaded(tmp_path, "arrays")
    assert (data.classes, data.shape, len(data.train.labels) + len(data.val.labels)) == (
        ("cat", "dog", "eel"),
        (12, 12, 1),
        60,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("floats", r"gives float64 \(12, 12\) for train 0; pixels are uint8"),
        ("fewer", "gives 60 images and 59 labels"),
        ("nothing", "gives int, which has no length"),
        ("unlabelled", "has neither labels nor targets"),
        ("words", "names 'other'"),
        ("fails", r"ZeroDivisionError: division by zero\. It happened in your code: .*mine\.py, line 44"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_images_that_cannot_be_used_are_refused(project, tmp_path, name, message):
    from raysweep.errors import InputError

    project(mine=HEAD + IMAGES)
    with pytest.raises(InputError, match=rf"data\.source: .*{message}"):
        loaded(tmp_path, name)


def test_images_of_code_that_nobody_allowed_are_not_read(project, tmp_path):
    from raysweep.data import cache
    from raysweep.errors import DataError, UntrustedError
    from raysweep.plan import networks

    project(mine=HEAD + IMAGES, others=HEAD + IMAGES)
    settings = small_settings(tmp_path, data={"source": "python:others:arrays"})
    with pytest.raises(DataError, match="was not allowed to run here"):
        cache.load(settings.data, tmp_path / "cache")
    with pytest.raises(UntrustedError):
        networks.provide_images(settings, trusted=False)


def test_a_change_of_the_images_or_of_the_code_is_noticed(project, tmp_path):
    draws = "import numpy as np\nSEED = 0\ndef some():\n    return np.random.default_rng({}).integers(0, 256, (40, 8, 8), dtype=np.uint8), [0, 1] * 20\n"
    project(mine=draws.format(0))
    first = loaded(tmp_path, "some")
    assert loaded(tmp_path, "some").folder == first.folder
    project(mine=draws.format(1))
    assert loaded(tmp_path, "some").sha256 != first.sha256
    named = "class Some(tuple):\n    def fingerprint(self): return '{}'\n"
    project(mine=draws.format(0) + named.format(1) + "def again(): return Some(some())\n")
    one = loaded(tmp_path, "again")
    assert one.sha256 == first.sha256
    project(mine=draws.format(0) + named.format(2) + "def again(): return Some(some())\n")
    assert loaded(tmp_path, "again").folder != one.folder


# --- the examples of the document -------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "own_code.md").read_text()
FILES = {m[1]: m[0] for m in re.finditer(r"(?s)(?<=```python\n)# (\w+)\.py\n.*?(?=```)", PAGE)}
COMMANDS = re.findall(r"^raysweep run (?:data=\S+ )?(.*python:.*)$", PAGE, re.MULTILINE)


def words(command: str) -> dict:
    from raysweep.config import load as load_config

    return load_config.parse_overrides(command.split())


def load_config_of(command: str):
    return small_settings("x", **words(command))


def test_the_document_has_examples():
    given = {option for command in COMMANDS for option in load_config_of(command).own_code()}
    assert {"loss.kind", "metrics.g_mean", "training.optimizer", "training.schedule"} <= given
    assert {"training.augment.own", "sampling.policy.kind", "data.source"} <= given
    assert len(FILES) == len(COMMANDS)


def stopped_equals_undisturbed(tmp_path, quick_run, without_ray, given) -> None:
    """Stopped within the second epoch, and continued."""
    from raysweep.config import load as load_config

    parts = load_config.merge(SMALL, given)
    whole = quick_run(**parts)
    assert "not bit-exact" not in (whole.folder / "experiment_changes.log").read_text()
    broken = interrupted(tmp_path, without_ray, 5, **parts)
    done = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    assert "not bit-exact" not in (done.folder / "experiment_changes.log").read_text()


def test_the_examples_of_the_document_run_together_and_are_exact(project, tmp_path, quick_run, without_ray):
    from raysweep.config import load as load_config

    project(**FILES)
    given: dict = {}
    for command in COMMANDS:  # of two losses, the one that keeps something
        given = load_config.merge(given, words(command) if "python:losses" not in command else {})
    assert small_settings("x", **given).own_code().keys() >= {"loss.kind", "data.source", "training.augment.own"}
    stopped_equals_undisturbed(tmp_path, quick_run, without_ray, given)


@pytest.mark.slow  # all at once are in the test above
@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_of_the_document_runs_and_is_exact(project, tmp_path, quick_run, without_ray, command):
    project(**FILES)
    stopped_equals_undisturbed(tmp_path, quick_run, without_ray, words(command))


@pytest.mark.slow  # the same on one rank is tested above
def test_the_examples_are_exact_on_two_ranks(two_ranks, project, tmp_path, monkeypatch):
    from raysweep.launch.workers import start as workers
    from tests.training.test_ranks import Trainer, go

    project(**FILES)
    trainer = Trainer(two_ranks)
    monkeypatch.setattr(workers, "in_this_process", trainer)
    given = {"loss": {"kind": "python:centred:Centred"}, "metrics": {"g_mean": "python:scores:g_mean"}}
    given["training"] = {"batch_size": 101, "optimizer": "python:steps:Lion", "augment": "python:noise:noise"}
    whole = go(trainer, tmp_path, **given)
    broken = go(trainer, tmp_path, 7, **given)
    assert broken.status() == "interrupted"
    done = resuming.continue_experiment(Root.open(tmp_path), broken.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    assert "not bit-exact" not in (done.folder / "experiment_changes.log").read_text()
