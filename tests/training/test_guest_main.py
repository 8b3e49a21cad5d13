"""Code of a notebook: it travels by value, its text is recorded, and what cannot travel is refused before anything starts."""

from __future__ import annotations

import linecache
import pickle
import sys
from types import ModuleType

import pytest

from raysweep.errors import ConfigError
from tests.conftest import small_settings, weights_hash

FIRST = """
import torch, threading
from torch import nn
from parts import act
LOCK = threading.Lock()
WIDTH = 4

def body(channels):
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3), act(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
SECOND = """
class Net(nn.Module):
    def __init__(self, num_classes, channels, widths=None):
        super().__init__()
        self.body, self.head = body(channels), nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.head(self.body(x))

def locked(num_classes, channels, widths=None):
    with LOCK:
        return Net(num_classes, channels)

def loss(logits, targets):
    return nn.functional.cross_entropy(logits, targets, reduction="none")
"""
THIRD = "unused = 1\n"
NET, LOSS = {"name": "python:__main__:Net"}, {"kind": "python:__main__:loss"}


@pytest.fixture
def notebook(project, monkeypatch, run_cells):
    folder = project(parts="from torch.nn import ReLU as act\n")
    monkeypatch.syspath_prepend(folder)
    run_cells(FIRST, SECOND, THIRD)
    return folder


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """From here on as in another process, in another folder, whose __main__ is another program."""

    def go() -> None:
        from raysweep.training import guest_main

        guest_main._here.clear()
        monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        monkeypatch.chdir(tmp_path)

    return go


def test_it_travels_by_value_and_its_text_is_kept(notebook, elsewhere):
    import torch

    from raysweep.training import guest, guest_main, guest_network

    code = guest.code_of("python:__main__:Net")
    assert (code.target, code.folder, code.stays) == ("__main__:Net", str(notebook), None)
    assert [*code.files] == ["__main__.py", "parts.py"]
    text = code.files["__main__.py"].decode()
    assert "class Net" in text
    assert "def body" in text
    assert "unused" not in text  # the cells that it needs, and no others

    def outputs():
        torch.manual_seed(0)
        return guest_network.build("__main__:Net", None, {}, 3, 1).eval()(torch.ones(2, 1, 8, 8))

    here, sent = outputs(), pickle.loads(pickle.dumps(code))
    elsewhere()
    with pytest.raises(ConfigError, match=r"there is no Net in the notebook or script that runs here, .*folder code/"):
        guest.load("__main__:Net")
    with guest.sent(sent):
        assert torch.equal(outputs(), here)
        assert guest.code_of("python:__main__:Net") == sent
    assert guest_main._here == set()


def test_what_cannot_travel_is_refused_before_anything_starts_elsewhere(notebook, tmp_path):
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import networks

    def plan(workers: int):
        scaling = {"num_workers": workers, "threads": 1}
        settings = small_settings(tmp_path / "experiments", model={"name": "python:__main__:locked"}, scaling=scaling)
        return experiment_plan.plan_experiment(settings)

    code = plan(0).code  # in this process it may stay
    told = r"^model\.name: python:__main__:locked cannot be sent to workers and branches: TypeError: cannot pickle '_thread.lock'.*num_workers=0"
    with pytest.raises(ConfigError, match=told):
        plan(2)
    with pytest.raises(ConfigError, match=told):
        networks.check_travels([code])
    assert not list((tmp_path / "experiments").glob("small_*"))


def test_what_is_too_large_is_refused(notebook, monkeypatch):
    from raysweep.training import guest, guest_main

    monkeypatch.setattr(guest_main, "MAX_VALUE", 100)
    assert "MB are sent" in str(guest.code_of("python:__main__:Net").stays)


def test_a_text_that_cannot_be_found_is_said(notebook):
    from raysweep.training import guest

    exec("def make(num_classes): return body(1)", sys.modules["__main__"].__dict__)
    linecache.cache.clear()
    assert "cannot be found" in str(guest.code_of("python:__main__:make").note())


@pytest.mark.slow
def test_an_experiment_of_a_notebook_is_recorded_and_trained_alike_elsewhere(
    notebook, elsewhere, quick_run, quick_child, tmp_path
):
    from raysweep.training import own

    sections = {
        "model": NET,
        "loss": LOSS,
        "training": {"epochs": 2, "label_smoothing": 0.0},
        "sampling": {"samples_per_epoch": 300},
    }
    made = quick_run(**sections)
    assert {p.read_text() for p in (made.folder / "code").iterdir()} >= {"from torch.nn import ReLU as act\n"}
    assert [c.target for c in made.config().all_code] == ["__main__:Net", "__main__:loss"]
    codes = pickle.loads(pickle.dumps([code_of("Net"), code_of("loss", "loss.kind")]))
    elsewhere()
    with own.sent(codes):
        child = quick_child(f"{made.id}@1", epochs=1)
    assert weights_hash(child) == weights_hash(made)
    assert "not bit-exact" not in (child.folder / "experiment_changes.log").read_text()


def test_it_is_made_from_its_recorded_text_elsewhere(notebook, elsewhere, quick_run, tmp_path, monkeypatch, capsys):
    import numpy as np

    from raysweep.errors import UntrustedError
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents
    from raysweep.store import trust
    from raysweep.store.root import Root
    from raysweep.store.trust import Trust
    from raysweep.tools import export, predict

    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    root = Root.open(tmp_path / "experiments")
    made = quick_run(
        model=NET, loss=LOSS, training={"epochs": 2, "label_smoothing": 0.0}, sampling={"samples_per_epoch": 300}
    )
    here = predict.load(root, f"{made.id}@2").probabilities(images)
    elsewhere()
    (notebook / "parts.py").unlink()
    known = parents.read_parent(root, f"{made.id}@1")  # this user made it on this machine: nobody is asked
    monkeypatch.setenv(trust.STATE, str(tmp_path / "of another machine"))
    before = sorted(root.path.rglob("*"))
    told = r"wants to .* run the text of python:__main__:Net that its folder code/ keeps \(__main__\.py, parts\.py\) .*--trust"
    with pytest.raises(UntrustedError, match=told):
        parents.read_parent(root, f"{made.id}@1")
    named = {"model": {**NET, "path": str(notebook)}, "loss": LOSS, "code_path": str(notebook)}
    with pytest.raises(UntrustedError, match="run the text"):  # whoever names it does not mean somebody else's text
        parents.read_parent(root, f"{made.id}@1", named)
    assert sorted(root.path.rglob("*")) == before
    found = parents.read_parent(root, f"{made.id}@1", trust=Trust(given=True))
    assert found.settings == known.settings
    plan = child.plan_child(found, root, epochs=1)
    resumed = launching.run(plan).experiment
    assert weights_hash(resumed) == weights_hash(made)
    assert "not bit-exact" not in (resumed.folder / "experiment_changes.log").read_text()
    assert {p.name for p in (resumed.folder / "code").iterdir()} == {p.name for p in (made.folder / "code").iterdir()}
    network = predict.load(root, f"{made.id}@2", trust=Trust(given=True))
    assert np.array_equal(network.probabilities(images), here)
    for form, file in (("pytorch", "net.pth"), ("torchscript", "net.pt")):
        export.export(network, form, tmp_path / file)
    code = next(p for p in (made.folder / "code").iterdir() if "class Net" in p.read_text())
    code.write_text(code.read_text() + "print('another text')\n")
    parents.read_parent(root, f"{made.id}@1", trust=Trust(given=True))
    with pytest.raises(ConfigError, match=r"its text is not in the experiment's folder code/ as it was recorded"):
        predict.load(root, f"{made.id}@2", trust=Trust(given=True))
    assert "another text" not in "".join(capsys.readouterr())


def code_of(name: str, option: str = "model.name"):
    from raysweep.training import guest

    return guest.code_of(f"python:__main__:{name}", option=option)
