"""Every command that README and docs show is really run, on tiny data, in a folder that has what the pages speak of.

What needs more than this machine is only parsed (:mod:`tests.test_readme`); :data:`ONLY_PARSED` says what, and why.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forks
from tests.conftest import draw_classes
from tests.labelled import draw
from tests.test_readme import CALLED, ROOT

ONLY_PARSED = {  # what stands in a command → why it is not run here
    r"--address|s3://|ROOT\b(?<!OLD_ROOT)|use_gpu|--workers|--gpus-per-branch": "a cluster, an object store or a GPU",
    r"pretrained=true|hf:NAME": "weights are downloaded: tests/training/test_published.py, tests/tools/test_evaluate.py",
    r"trackers\.": "another program: tests/trackers",
    r"^demo$|^ui\b": "minutes, or until somebody stops it: they have tests of their own",
    r"^continue (base|cifar10-lt|fer2013)-hunt$": "a hunt trains for minutes: tests/launch/hunt",
    r"\bfive$|--more-seeds": "folds and more seeds train on Ray: tests/launch/sweep",
}
IN_WORDS = {  # what stands for something of the reader's own → what it is here
    r"^(cifar10-lt(_[0-9]+_[0-9]+)?@20|fer_[0-9]+_[0-9]+@8)$": "base@8",
    r"^fer2013-hunt-made-[0-9](?=@)": "base",
    r'^{"angry": .*': '{"disgust": 2.5}',
    r"^(photos|fer|resnet|cifar10-lt|xrays)(?=@|-sweep)": "base",
    r"^photos$": "images",
    r"=\.\./images$|=IMAGES$|=FOLDER$|=images$": "=images",
    r"^FOLDER$|^IMAGES$": "images",
    r"^OLD_ROOT$|^OLD(?=/)": "old/experiments",
    r"(?<=old/experiments)(?=/checkpoint)": "/old_base_20250108_143022",
    r"^OLD(_FOLDER)?…?$": "old/experiments/old_base_20250108_143022",
    r"^IMAGE…$": "photo.png",
    r"^GRID$": "grid.yaml",
    r"^SPACE$": "space.yaml",
    r"^FRAMES$": "images/val/fear",
}
CONFIG = """
experiment: {{name: {name}}}
data: {{path: images}}
model: {{name: cnn, options: {{widths: [4, 4, 8, 8]}}}}
training: {{epochs: {epochs}, batch_size: 16}}
"""
GRID = "epochs: 1\nseeds: [0, 1]\nweights: {disgust: [5.0], fear: [2.0]}\n"


def as_here(words: list[str]) -> list[str]:
    """A command with the names of this world, and made small where it would train for long."""
    found = []
    for word in (w for w in words if w != "…"):
        for pattern, instead in IN_WORDS.items():
            word = re.sub(pattern, instead, word)
        found.append(word)
    if found[0] in ("branch", "hunt") and "--dry-run" not in found:
        found.append(
            "--dry-run"
        )  # all is planned and checked; the sweep of the world itself, and tests/journeys, are trained
    if (
        found[0] == "run"
        and "--dry-run" not in found
        and not any(re.match("training.epochs|--epochs|sampling.schedule", w) for w in found)
    ):
        found += ["--epochs", "2"]
    if found[0] == "prune" and not {"--dry-run", "--yes"} & set(found):
        found.append("--yes")  # on a terminal it asks
    if found[:2] == ["run", "fer2013"]:
        found = [w for w in found if not w.startswith("sampling.samples_per_epoch")]
    if any(w.startswith("old/") for w in found):  # whose classes are others
        for ours, olds in (("=images", "=old/images"), ("disgust", "eel"), ("grid.yaml", "old/grid.yaml")):
            found = [w.replace(ours, olds) for w in found]
    if found[0] == "branch" and "five" in found:
        found = ["folds.yaml" if w == "grid.yaml" else w for w in found]
    return found


def why_only_parsed(words: list[str]) -> str | None:
    line = " ".join(words)
    return next((why for pattern, why in ONLY_PARSED.items() if re.search(pattern, line)), None)


WHOLE = {" ".join(words): words for _, words, whole in CALLED if whole and words != ["--help"]}
RUN = {line: words for line, words in WHOLE.items() if why_only_parsed(words) is None}


def test_most_commands_are_run():
    """Quick twin: what is run here is most of what is shown, and nothing is excluded that could be run."""
    assert len(RUN) > 60
    assert len(RUN) > 0.75 * len(WHOLE)
    for pattern in ONLY_PARSED:
        assert any(re.search(pattern, line) for line in WHOLE), f"no command has {pattern} any more"


def test_the_names_of_the_reader_become_those_of_this_world():
    assert as_here(["branch", "--from", "fer@6", "--epochs", "2"]) == [
        "branch",
        "--from",
        "base@6",
        "--epochs",
        "2",
        "--dry-run",
    ]
    assert as_here(["import", "OLD", "…", "data.path=IMAGES"])[1:] == [
        "old/experiments/old_base_20250108_143022",
        "data.path=old/images",
    ]
    assert as_here(["run", "data.path=FOLDER", "--dry-run"]) == ["run", "data.path=images", "--dry-run"]


def own_code(folder: Path) -> None:
    """The modules that the pages show, and a network and a loss as the pages speak of them."""
    page = (ROOT / "docs" / "own_code.md").read_text(encoding="utf-8")
    for body in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", body)
        (folder / (name[1] if name else "policies.py")).write_text(body)
    (folder / "losses.py").open("a").write("\n\nmine = tempered\n")
    (folder / "models.py").write_text(
        "from torch import nn\n\n\ndef ResNet18(num_classes, channels):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, num_classes))\n"
    )


def weights(folder: Path) -> None:
    import torch

    sys.path.insert(0, str(folder))
    try:
        from models import ResNet18  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("models", None)
    (folder / "checkpoint").mkdir()
    torch.save({"net": ResNet18(3, 1).state_dict(), "acc": 50.0, "epoch": 3}, folder / "checkpoint" / "ckpt.pth")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with images, configurations, own code, old experiments, the experiment ``base`` and its sweep."""
    from tests.plan import old

    folder = tmp_path_factory.mktemp("world")
    for number, split in enumerate(("train", "val", "test")):
        draw_classes(folder / "images" / split, {"disgust": 12, "fear": 20, "happy": 30}, seed=number)
    shutil.copy(folder / "images" / "val" / "fear" / "0000.png", folder / "photo.png")
    shutil.copy(folder / "images" / "val" / "fear" / "0001.png", folder / "photo.jpg")
    (folder / "configs").mkdir()
    (folder / "base").write_text(CONFIG.format(name="base", epochs=8))
    for name in ("configs/base.yaml", "configs/fer2013.yaml", "my.yaml", "config.yaml"):
        (folder / name).write_text(CONFIG.format(name=Path(name).stem, epochs=2))
    for name in ("grid", "grid.yaml", "configs/grid.yaml"):
        (folder / name).write_text(GRID)
    (folder / "space.yaml").write_text("epochs: 1\nweights: {disgust: {log_uniform: [1, 8]}}\n")
    (folder / "folds.yaml").write_text(f"data: {{folds: 3}}\n{GRID}")
    rows = [f"{p.relative_to(folder)},{p.parent.name}" for p in sorted((folder / "images").rglob("*.png"))]
    (folder / "digits.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    draw(folder / "xrays")
    own_code(folder)
    weights(folder)
    (folder / "old" / "experiments").mkdir(parents=True)
    old.write(folder / "old" / "experiments")
    for number, split in enumerate(("train", "val", "test")):
        draw_classes(folder / "old" / "images" / split, {"cat": 12, "dog": 20, "eel": 30}, seed=number)
    (folder / "old" / "grid.yaml").write_text(GRID.replace("disgust", "eel").replace("fear", "cat"))
    for arguments in (("run", "base"), ("branch", "--from", "base@3", "--weights-grid", "grid", "--in-process")):
        done = subprocess.run(
            [sys.executable, "-m", "raysweep", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def sampled(lines):
    """Every third command; the others are long. tests/test_readme.py parses all of them by default."""
    return [pytest.param(line, marks=[pytest.mark.long] if i % 3 else []) for i, line in enumerate(lines)]


@pytest.mark.slow
@pytest.mark.parametrize("line", sampled(RUN))
def test_a_command_that_is_shown_works(world, tmp_path, line, monkeypatch):
    monkeypatch.delenv("RAYSWEEP_ROOT", raising=False)
    here = tmp_path / "here"
    shutil.copytree(world, here, symlinks=True)
    made = {"init": ("config.yaml", "grid.yaml")}  # the world has what a reader would make
    for name in made.get(RUN[line][0], ()):
        (here / name).unlink()
    with forks.program(*as_here(RUN[line]), folder=here) as program:
        out = program.stdout.read()
        err = program.stderr.read()
        code = program.wait()
    assert code == 0, (line, out[-2000:], err[-3000:])
    assert "Traceback" not in err
