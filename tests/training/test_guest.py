"""A user's own code as a model: found, imported, called and shown as it is."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from raysweep.errors import ConfigError
from tests.cli.test_errors import run_cli

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, width=2):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.linear(self.features(x))
"""


def build(name: str, classes: int = 7, channels: int = 3, path: str | None = None, head: str | None = None, **options):
    from raysweep.training import models

    return models.build(f"python:{name}", options, classes, channels, trusted=True, path=path, head=head)


def outputs(model, size: int = 12, channels: int = 3) -> tuple[int, ...]:
    import torch

    with torch.no_grad():
        return tuple(model.eval()(torch.zeros(2, channels, size, size)).shape)


SHAPES = {
    "a class": ("Net", ""),
    "a function": ("make", "def make(num_classes): return Net(num_classes)"),
    "other names": (
        "make",
        "def make(n_classes, in_chans): return nn.Sequential(nn.Conv2d(in_chans, 3, 1), Net(n_classes))",
    ),
    "keywords handed on": ("make", "def make(pretrained=False, **kw): return Net(**kw)"),
    "a function that fixes the classes": ("make", "def make(): return Net(10)"),
    "a partial": ("make", "import functools; make = functools.partial(Net, width=3)"),
    "a ready network": ("net", "net = Net(10)"),
    "a name in a class": ("Zoo.make", "class Zoo:\n    make = staticmethod(lambda nclass: Net(nclass))"),
    "a 1x1 convolution": (
        "make",
        "def make(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_gives_a_network_is_taken(project, shape):
    name, code = SHAPES[shape]
    project(nets=f"{NET}\n{code}\n")
    assert outputs(build(f"nets:{name}")) == (2, 7)
    assert outputs(build(f"nets:{name}", channels=1), channels=1) == (2, 7)


def test_a_last_layer_of_another_width_is_replaced_and_said(project):
    from raysweep.training import guest_network

    project(nets=f"{NET}\ndef ten(): return Net(10)\n")
    model = build("nets:ten")
    assert guest_network.notes(model) == [
        "its last layer linear has 10 outputs, so it is replaced by a new one of 7; model.head=keep leaves it"
    ]
    assert outputs(build("nets:ten", head="keep")) == (2, 10)
    assert outputs(build("nets:ten", classes=10, head="replace")) == (2, 10)


def test_a_network_whose_output_fits_keeps_all_its_layers(project, tmp_path):
    """Its last layer is not the one that gives the output."""
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings

    extra = "def make(widths):\n    net = Net(CLASSES)\n    net.extra = nn.Linear(2, 1)\n    return net"
    for classes, head in ((10, "keep"), (9, None)):
        project(nets=f"CLASSES = {classes}\n{NET}\n{extra}\n")
        settings = small_settings(tmp_path / "experiments", model={"name": "python:nets:make"})
        if head == "keep":
            plan = experiment_plan.plan_experiment(settings)
            assert plan.settings.model.head == "keep"
            assert not any("replaced" in note.text for note in plan.notes)
        else:
            with pytest.raises(ConfigError, match=r"logits of shape \(1, 10\) are needed"):
                experiment_plan.plan_experiment(settings)


def test_the_names_of_weights_stay_where_gray_is_repeated(project):
    from raysweep.training import guest_network

    project(nets=NET)
    model = build("nets:Net", channels=1)
    assert outputs(model, channels=1) == (2, 7)
    assert [*model.state_dict()] == [*build("nets:Net").state_dict()]
    assert any("gray" in note for note in guest_network.notes(model))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def make(x, /): return x", "takes x by position only"),
        ("def make(depth, wide=1): return Net()", "it needs depth"),
        ("make = 3", "not a function"),
        ("def make(num_classes): return 'text'", "returned str"),
        ("CACHE = {}\ndef make(): return CACHE.setdefault(1, Net(7))", None),
    ],
)
def test_what_gives_no_network_is_refused(project, code, told):
    project(nets=f"{NET}\n{code}\n")
    if told is not None:
        with pytest.raises(ConfigError, match=told):
            build("nets:make")
        return
    build("nets:make")
    with pytest.raises(ConfigError, match="the same network as before"):
        build("nets:make")


def test_an_option_that_a_function_does_not_have_is_named(project):
    project(nets=NET)
    with pytest.raises(ConfigError, match=r"it has no widht\)\. Did you mean 'width'"):
        build("nets:Net", widht=3)
    assert build("nets:Net", width=5).linear.in_features == 5


def test_a_ready_network_is_not_trained_itself(project):
    import torch

    project(nets=f"{NET}\nnet = Net(7)\ndef make(): return net\n")
    one = build("nets:net")
    with torch.no_grad():
        one.linear.weight.zero_()
    assert build("nets:net").linear.weight.abs().sum() > 0
    assert build("nets:make").linear.weight.abs().sum() > 0


# --- where it is ------------------------------------------------------------------------------------------------------


def test_the_working_directory_is_searched_last_and_only_meanwhile(project):
    folder = project(nets=NET, json="raise RuntimeError('hides the standard library')", raysweep="1/0")
    path = list(sys.path)
    build("nets:Net")
    assert sys.path == path
    assert str(folder) not in sys.path
    with pytest.raises(ConfigError, match="has no function 'Net'"):  # Python's own goes before
        build("json:Net")
    assert not list(folder.rglob("*.pyc"))


def test_files_of_the_project_hide_no_library(project):
    """Python puts the working directory first where a module is run with -m."""
    import os
    import subprocess

    import raysweep

    folder = project(yaml="1/0", typer="1/0", sqlite3="1/0", config="1/0")
    search = {**os.environ, "PYTHONPATH": str(Path(raysweep.__file__).parent.parent)}
    command = [sys.executable, "-m", "raysweep", "list", "--json"]
    done = subprocess.run(command, cwd=folder, env=search, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_folder_is_recorded_and_found_from_elsewhere(project, tmp_path, monkeypatch):
    from raysweep.plan import networks
    from tests.conftest import small_settings

    folder = project(**{"models/zoo": NET, "models/__init__": ""})
    settings = small_settings(tmp_path, model={"name": "python:models.zoo:Net", "options": {}})
    planned, code = networks.with_code(settings, True)
    assert planned.model.path == str(folder)
    assert code is not None
    assert [*code.hashes] == ["models/__init__.py", "models/zoo.py"]
    for name in [n for n in sys.modules if n.partition(".")[0] == "models"]:
        del sys.modules[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'models\.zoo' cannot be imported .*model\.path=FOLDER"):
        build("models.zoo:Net")
    build("models.zoo:Net", path=planned.model.path)


def test_two_projects_with_modules_of_one_name_in_one_process(project, tmp_path):
    project(nets=NET)
    other = tmp_path / "other"
    other.mkdir()
    (other / "nets.py").write_text(NET.replace("self.linear", "self.fc"))
    assert hasattr(build("nets:Net"), "linear")
    assert hasattr(build("nets:Net", path=str(other)), "fc")
    assert hasattr(build("nets:Net"), "linear")


def test_a_changed_file_is_imported_again(project):
    project(nets=NET)
    assert hasattr(build("nets:Net"), "linear")
    project(nets=NET.replace("self.linear", "self.fc"))
    assert hasattr(build("nets:Net"), "fc")


def test_code_that_was_sent_goes_before_other_files(project):
    """On another machine, or after the user has changed a file while a sweep runs."""
    from raysweep.training import guest

    folder = project(nets=f"from parts import *\n{NET}", parts="")
    code = guest.code_of("python:nets:Net")
    assert code is not None
    assert [*code.files] == ["nets.py", "parts.py"]
    project(nets=NET.replace("self.linear", "self.fc"))
    (folder / "parts.py").unlink()
    with guest.sent(code):
        assert hasattr(build("nets:Net"), "linear")
        project(nets=f"from parts import *\n{NET}", parts="")
        assert hasattr(build("nets:Net"), "linear")
        assert Path(sys.modules["nets"].__file__).parent == folder  # the same files as were sent
    project(nets=NET.replace("self.linear", "self.fc"))
    assert hasattr(build("nets:Net"), "fc")


# --- its files --------------------------------------------------------------------------------------------------------


def test_the_files_of_ones_own_folder_are_collected(project):
    from raysweep.training import sources

    files = {
        "pkg/__init__": "",
        "pkg/net": "from . import parts\nfrom .more import thing\nimport torch, tools",
        "pkg/parts": "def late():\n    from helpers.deep import x",
        "pkg/more": "thing = 1",
        "pkg/other": "not imported",
        "tools": "import nothing_here",
        "helpers/__init__": "",
        "helpers/deep": "x = 1",
        "alone": "1",
    }
    folder = project(**files)
    found = sources.collect("pkg.net:f", folder)
    assert [*found.hashes] == [
        *(
            "helpers/__init__.py",
            "helpers/deep.py",
            "pkg/__init__.py",
            "pkg/more.py",
            "pkg/net.py",
            "pkg/parts.py",
            "tools.py",
        )
    ]
    assert found.files.keys() == found.hashes.keys()
    assert found.note() is None


def test_large_files_are_left_out_and_said(project, monkeypatch):
    from raysweep.training import sources

    folder = project(nets="import table", table=f"T = '{'x' * 300_000}'")
    found = sources.collect("nets:f", folder)
    assert [*found.files] == ["nets.py"]
    assert found.left_out == ["table.py"]
    assert "the text of 1 file is not kept, only the hash (table.py)" in str(found.note())
    monkeypatch.setattr(sources, "MAX_FILES", 1)
    assert [*sources.collect("nets:f", project(table="T = 1")).files] == ["nets.py"]


def test_what_is_installed_is_no_code_of_the_user():
    from raysweep.training import guest, sources

    assert guest.code_of("python:torch.nn:Linear") is None
    assert guest.code_of("cnn") is None
    assert not sources.is_users(sources.__file__)
    assert sources.is_users(__file__)


# --- randomness -------------------------------------------------------------------------------------------------------


def test_importing_leaves_the_generators_as_they_were(project):
    import numpy as np
    import torch

    draws = "import random, torch, numpy as np\nrandom.seed(1234); torch.manual_seed(1234); np.random.seed(1234)\n"
    project(nets=f"{draws}{NET}\nLAYER = nn.Linear(2, 2)\n")
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    build("nets:Net").state_dict()  # building draws, importing does not
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    del sys.modules["nets"]
    from raysweep.training import guest

    guest.load("nets:Net")
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected


LATE = """
def make(num_classes):
    import seeds_late
    return seeds_late.Net(num_classes)
"""


def first_weights(settings, fresh: bool):
    """The weights that a training of these settings begins with: in this process, or as in one that has imported nothing."""
    from types import SimpleNamespace

    import torch

    from raysweep.training import guest, guest_network, setup

    if fresh:
        for name in ("nets", "seeds_late"):
            sys.modules.pop(name, None)
        guest._loaded.clear()
        guest_network._built.clear()
        torch.manual_seed(id(settings) % 1000)
    job = SimpleNamespace(settings=settings, start=None, trusted=True, code=None)
    data = SimpleNamespace(classes=("a", "b"), shape=(8, 8, 3))
    model = setup._new_model(job, data, SimpleNamespace(device=torch.device("cpu")))
    return [v.clone() for v in model.state_dict().values()]


@pytest.mark.parametrize("late", [False, True])
def test_the_first_weights_depend_on_the_seed_alone(project, tmp_path, late):
    import torch

    from tests.conftest import small_settings

    seeding = f"import torch\ntorch.manual_seed(1234)\n{NET}\nONE = Net(3)\n"
    project(nets=LATE if late else f"{seeding}\nmake = Net\n", seeds_late=seeding)

    def of(seed: int, fresh: bool):
        settings = small_settings(tmp_path, model={"name": "python:nets:make"}, seed=seed)
        model = settings.model.model_copy(update={"options": {}})
        return first_weights(settings.model_copy(update={"model": model}), fresh)

    zero, again, one = of(0, fresh=True), of(0, fresh=False), of(1, fresh=True)
    assert all(torch.equal(a, b) for a, b in zip(zero, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(zero, one, strict=True))


# --- errors -----------------------------------------------------------------------------------------------------------

FAULTS = {
    "a message": (
        "def make():\n    helper()\ndef helper():\n    raise ValueError('seven is too few')",
        "ValueError: seven is too few",
        4,
    ),
    "an assertion": ("def make():\n    assert 1 == 2, 'odd'", "AssertionError: odd", 2),
    "a missing file": ("def make():\n    open('/nowhere/w.pt')", "No such file or directory: '/nowhere/w.pt'", 2),
    "a syntax error": ("def make(:\n    pass", "SyntaxError", 1),
    "a missing dependency": ("import nothing_like_it\ndef make(): pass", "Install nothing_like_it", 1),
    "at import": ("x = {}['k']", "KeyError: 'k'", 1),
    "sys.exit": ("import sys\nsys.exit(3)", r"it ended the program, with sys.exit(3)", 2),
    "sys.exit when called": ("import sys\ndef make(): sys.exit(3)", r"It must return a network instead", 2),
    "argparse at import": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\np.parse_args()",
        "it ended the program",
        4,
    ),
    "a type error of its own": (
        "def make(num_classes):\n    return len(num_classes)",
        "TypeError: object of type 'int' has no len",
        2,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_of_the_users_code_are_shown_as_theirs(project, fault, capsys):
    code, told, line = FAULTS[fault]
    folder = project(faulty=code)
    with pytest.raises(ConfigError) as found:
        build("faulty:make")
    text = str(found.value)
    assert told in text
    assert f"{folder}/faulty.py, line {line}" in text
    assert "PYTHONPATH" not in text
    assert capsys.readouterr().out == ""
    project(faulty=NET.replace("Net", "make"))  # corrected, it works in the same process
    build("faulty:make")


def test_words_of_our_command_line_are_not_the_modules(project, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["raysweep", "run", "x.yaml"])
    project(
        nets=f"import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', default=1)\np.parse_args()\n{NET}"
    )
    build("nets:Net")
    assert sys.argv == ["raysweep", "run", "x.yaml"]


def test_a_module_that_prints_does_not_spoil_the_output(project, capsys, quick_run, image_folder, tmp_path):
    import json

    printing = NET.replace("return self.linear", "print('forward'); return self.linear")
    project(
        nets=f"print('imported')\n{printing}\ndef make(num_classes, widths): print('built'); return Net(num_classes)\n"
    )
    run = quick_run(training={"epochs": 1}, model={"name": "python:nets:make"}, sampling={"samples_per_epoch": 200})
    assert capsys.readouterr().out == ""
    image = next((image_folder / "val").rglob("*.png"))
    code, out, err = run_cli(capsys, "predict", f"{run.id}@1", image, "--json", "--root", tmp_path / "experiments")
    assert code == 0, err
    assert json.loads(out)[0]["image"] == str(image)
    assert "forward" in err


# --- recorded ---------------------------------------------------------------------------------------------------------


def test_changed_code_is_said_wherever_the_checkpoint_is_used(
    project, capsys, quick_run, quick_child, image_folder, tmp_path
):
    import json

    from raysweep.store import lineage

    net = NET.replace("width=2", "widths=(2,), width=2").replace(
        "nn.AdaptiveAvgPool2d(1)", "act(), nn.AdaptiveAvgPool2d(1)"
    )
    folder = project(nets=f"from parts import act\n{net}", parts="from torch.nn import ReLU as act\n")
    root = tmp_path / "experiments"
    run = quick_run(training={"epochs": 2}, model={"name": "python:nets:Net"}, sampling={"samples_per_epoch": 200})
    kept = sorted(p.name.split(".")[0] for p in (run.folder / "code").iterdir())
    assert kept == ["nets", "parts"]
    assert {p.read_text() for p in (run.folder / "code").iterdir()} == {p.read_text() for p in folder.glob("*.py")}
    image = next((image_folder / "val").rglob("*.png"))
    assert "Note" not in run_cli(capsys, "predict", f"{run.id}@1", image, "--root", root)[2]
    (folder / "parts.py").write_text("from torch.nn import SELU as act\n")
    told = r"imported file parts.py"
    code, _, err = run_cli(capsys, "predict", f"{run.id}@1", image, "--root", root)
    assert code == 0, err
    assert told in err
    target = tmp_path / "out.safetensors"
    assert told in run_cli(capsys, "export", f"{run.id}@1", "--to", "safetensors", "-o", target, "--root", root)[2]
    assert told in json.loads(Path(f"{target}.json").read_text())["notes"][0]
    child = quick_child(f"{run.id}@1", epochs=1)
    notes = [e.fields["text"] for e in lineage.read(child.folder) if e.type == lineage.NOTE]
    assert any(
        n.startswith("the code of python:nets:Net is not that which the checkpoint was trained with") for n in notes
    )
    assert any(n.startswith("not bit-exact: ") and told in n for n in notes)
    code, out, _ = run_cli(capsys, "diff", run.id, child.id, "--root", root)
    assert [line.split("\t")[:2] for line in out.splitlines() if line.startswith("code")] == [["code", "parts.py"]]
    code, out, _ = run_cli(capsys, "verify", f"{run.id}@1", "--replay", "--root", root)
    assert (code, told in out) == (0, True), out


def test_a_network_trains_and_is_used_from_another_folder(project, quick_run, quick_child, monkeypatch, tmp_path):
    from raysweep.store.root import Root
    from raysweep.tools import predict

    project(nets=f"{NET}\ndef make(num_classes, widths): return Net(num_classes)\n")
    run = quick_run(training={"epochs": 1}, model={"name": "python:nets:make"}, sampling={"samples_per_epoch": 200})
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("nets", None)
    assert predict.load(Root.open(tmp_path / "experiments"), f"{run.id}@1").name == "python:nets:make"
    assert quick_child(f"{run.id}@1", epochs=1).status() == "finished"


@pytest.mark.slow  # test_the_first_weights_depend_on_the_seed_alone and test_code_that_was_sent_... are its parts
def test_another_process_trains_the_same_bits_although_the_files_have_changed(
    project, quick_run, tmp_path, monkeypatch
):
    """What a Ray worker does, without Ray."""
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings, weights_hash
    from tests.training.ranks import Ranks

    late = "import torch\nfrom torch.nn import ReLU as act\ntorch.manual_seed(1)\nLAYER = torch.nn.Linear(3, 3)\n"
    nets = f"import torch\ntorch.manual_seed(1234)\n{NET}\ndef make(num_classes, widths):\n    from late import act\n"
    folder = project(
        nets=f"{nets}    return nn.Sequential(nn.Conv2d(3, 3, 3), act(), nn.Dropout(0.2), Net(num_classes))\n",
        late=late,
    )
    sections = {"model": {"name": "python:nets:make"}, "training": {"epochs": 1}}
    here = quick_run(**sections)
    with Ranks(1) as other:
        monkeypatch.setattr(workers, "in_this_process", lambda job, fitted, progress: other.train(job))
        plans = [
            experiment_plan.plan_experiment(small_settings(tmp_path / "experiments", **sections)) for _ in range(2)
        ]
        there = launching.run(plans[0]).experiment
        assert weights_hash(there) == weights_hash(here)
        (folder / "late.py").write_text(late.replace("ReLU", "SELU"))
        there = launching.run(plans[1]).experiment  # gets the files as they were planned with
        assert weights_hash(there) == weights_hash(here)
        changed = launching.run(experiment_plan.plan_experiment(small_settings(tmp_path / "experiments", **sections)))
        assert weights_hash(changed.experiment) != weights_hash(here)
    assert any(p.read_text() == late for p in (there.folder / "code").iterdir())


@pytest.mark.parametrize("fault", ["raise KeyError('no such thing')", "import sys; sys.exit(3)"])
def test_what_fails_while_it_is_tried_or_trained_is_shown_in_its_place(project, quick_run, fault):
    from raysweep.errors import TrainingError

    line = NET.splitlines().index("        return self.linear(self.features(x))") + 1
    later = "self.__dict__.setdefault('seen', []).append(1) or len(self.seen) > 8"  # what is tried is called less often
    for when, told in (("True", ConfigError), ("self.training", ConfigError), (later, TrainingError)):
        code = NET.replace("return self.linear", f"if {when}: {fault}\n        return self.linear")
        folder = project(nets=f"{code}\ndef make(num_classes, widths): return Net(num_classes)\n")
        with pytest.raises(told) as found:
            quick_run(training={"epochs": 4}, model={"name": "python:nets:make"})
        assert f"{folder}/nets.py, line {line}, in forward" in str(found.value)
        assert "no such thing" in str(found.value) or "it ended the program, with sys.exit(3)" in str(found.value)


def test_continuing_with_other_code_is_told_and_both_states_are_kept(project, tmp_path, without_ray):
    from raysweep.launch.resume import continue_experiment
    from raysweep.store import lineage
    from raysweep.store.root import Root
    from tests.training.test_exactness import interrupted

    make = f"{NET}\ndef make(num_classes, widths): return Net(num_classes)\n"
    project(nets=make)
    broken = interrupted(tmp_path, without_ray, 1, model={"name": "python:nets:make"}, training={"epochs": 1})
    before = broken.config().code
    project(nets=f"{make}# a remark\n")
    done = continue_experiment(Root.open(tmp_path / "experiments"), broken.id).experiment
    notes = [e.fields["text"] for e in lineage.read(done.folder) if e.type == lineage.NOTE]
    assert "the code of python:nets:make is no longer that with which this experiment began: nets.py" in notes
    assert before is not None
    assert done.config().code.files != before.files
    assert sorted(p.read_text() for p in (done.folder / "code").iterdir()) == [make, f"{make}# a remark\n"]
