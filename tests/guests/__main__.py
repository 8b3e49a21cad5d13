"""Every network of somebody's repository, by one command and without an adapter: run, branch on Ray, predict, export.

    python -m tests.guests REPOSITORY [--classes 100] [--out FOLDER] [--names NAME …]

The networks are those that the programs in the repository's folder (``main.py``, ``train.py``, ``utils.py`` …) import from its own
packages, or call in a line ``net = NAME(…)``, also in one that is a comment. Of each: ``raysweep run``, ``raysweep branch`` (a control and
one branch, on Ray), ``raysweep predict``, ``raysweep export``. Then the repository's own code builds the network, loads the exported
weights strictly, and must give the same probabilities to 1e-5. The data are a few random pictures.

Rows are added to ``table.jsonl`` in the folder of results, and what stands there is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import inspect
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TOLERANCE = 1e-5
_THEIRS = "its own code fails"  # so it does not count
_STEPS = ("run", "branch", "predict", "export")


@dataclass(frozen=True)
class Network:
    """A network as the repository names it."""

    name: str  # MODULE:NAME
    options: dict[str, Any] = field(default_factory=dict)  # that it cannot be called without


@dataclass(frozen=True)
class Row:
    """What became of one network."""

    name: str
    done: tuple[str, ...]  # which of the steps
    difference: (
        float | None
    )  # the largest one between probabilities that are predicted and those of the repository's own network
    seconds: float
    error: str | None = None

    def text(self, steps: tuple[str, ...]) -> str:
        cells = [("yes" if step in self.done else "no").ljust(8) for step in steps]
        difference = "-" if self.difference is None else f"{self.difference:.1e}"
        return f"{self.name:44}{''.join(cells)}{difference:>9}{self.seconds:8.0f}  {self.error or ''}".rstrip()


# --- which networks ---------------------------------------------------------------------------------------------------


def networks(folder: Path) -> Iterator[Network]:
    """Those that the repository's programs can train."""
    programs = "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.py")))
    own = "|".join(p.name for p in sorted(folder.iterdir()) if (p / "__init__.py").exists() or any(p.glob("*net*.py")))
    seen: set[str] = set()
    for module, names in re.findall(rf"^\s*from ((?:{own})[\w.]*) import ([\w, *]+)", programs, re.M):
        found = (
            _all_of(folder, module) if "*" in names else [Network(f"{module}:{n.strip()}") for n in names.split(",")]
        )
        for network in found:
            if network.name not in seen and callable(_own(folder, network.name)):
                seen.add(network.name)
                called = re.search(rf"^[#\s]*net = {network.name.partition(':')[2]}\(([^)\n]+)\)", programs, re.M)
                yield Network(network.name, _words(folder, network.name, called[1] if called else ""))


def _all_of(folder: Path, module: str) -> Iterator[Network]:
    """What ``from module import *`` gives and can be called without a word, or is called with words in the programs."""
    with _searched(folder):
        found = importlib.import_module(module)
    programs = "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.py")))
    for name, value in vars(found).items():
        if name.startswith(("_", "test")) or not str(getattr(value, "__module__", "")).startswith(module):
            continue
        if re.search(rf"^[#\s]*net = {name}\(", programs, re.M) or _is_whole(value):
            yield Network(f"{module}:{name}")


def _is_whole(value: Any) -> bool:
    """Whether it is a function, or a network with weights, that needs no word."""
    from torch import nn

    if not callable(value) or any(p.default is p.empty for p in inspect.signature(value).parameters.values()):
        return False
    return not inspect.isclass(value) or (issubclass(value, nn.Module) and any(True for _ in value().parameters()))


def _words(folder: Path, name: str, written: str) -> dict[str, Any]:
    """The arguments of a call, ``'VGG19'`` or ``1``, under the names of the parameters."""
    if not written:
        return {}
    given = [json.loads(word.strip().replace("'", '"')) for word in written.split(",")]
    return dict(zip(inspect.signature(_own(folder, name)).parameters, given, strict=False))


@contextlib.contextmanager
def _searched(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _own(folder: Path, name: str) -> Any:
    module, _, function = name.partition(":")
    with _searched(folder):
        return functools.reduce(getattr, function.split("."), importlib.import_module(module))


# --- one network ------------------------------------------------------------------------------------------------------


def _said(*words: object) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed; the message is its own.
    """
    from raysweep.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    if code:
        raise RuntimeError(f"{words[0]}: {(err.getvalue().strip().splitlines() or ['?'])[-1]}")
    return out.getvalue()


def tried(folder: Path, network: Network, out: Path, data: Path, steps: tuple[str, ...]) -> Row:
    """Take one network through all steps."""
    began, done = time.monotonic(), list[str]()
    difference, error = None, None
    root, work = out / "experiments", out / "work"
    for old in (root, work):
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir()
    images = sorted((data / "val").rglob("*.png"))[:5]
    options = [f"model.options={json.dumps(network.options)}"] if network.options else []
    try:
        _own(folder, network.name)(**network.options)
    except Exception as problem:  # nothing that its own program could train
        return Row(network.name, (), None, 0.0, f"{_THEIRS}: {type(problem).__name__}: {problem}"[:300])
    try:
        words = [
            "training.epochs=1",
            "training.batch_size=4",
            "sampling.samples_per_epoch=8",
            "training.optimizer=sgd",
            "training.learning_rate=0.001",
        ]
        printed = _said(
            "run",
            f"model.name=python:{network.name}",
            *options,
            f"data.path={data}",
            *words,
            "scaling.num_workers=0",
            "scaling.threads=1",
            "experiment.name=net",
            "--root",
            root,
        )
        reference = f"{Path(printed.strip().splitlines()[-1]).name}@1"
        done.append("run")
        if "branch" in steps:
            _said(
                "branch",
                "--from",
                reference,
                "--weights-grid",
                out / "grid.yaml",
                "--max-concurrent",
                1,
                "--root",
                root,
            )
            done.append("branch")
        if "predict" in steps:
            rows = json.loads(_said("predict", reference, *images, "--root", root, "--json"))
            done.append("predict")
        if "export" in steps:
            for kind, name in (("safetensors", "net.safetensors"), ("pytorch", "net.pth")):
                _said("export", reference, "--to", kind, "-o", work / name, "--root", root)
            done.append("export")
        if {"predict", "export"} <= {*steps}:
            difference = _difference(folder, network, work, images, rows)
            error = None if difference <= TOLERANCE else "other predictions"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"[:600]
    return Row(network.name, tuple(done), difference, round(time.monotonic() - began, 1), error)


def _difference(folder: Path, network: Network, work: Path, images: list[Path], rows: list[dict[str, Any]]) -> float:
    """The largest difference between the probabilities that were printed and those of the repository's own network."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    facts = json.loads((work / "net.safetensors.json").read_text())
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) for path in images])
    normal = (pixels - np.array(facts["input"]["mean"])) / np.array(facts["input"]["std"])
    x = torch.from_numpy(normal.astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    said = np.array([[row["probabilities"][c] for c in facts["classes"]] for row in rows])
    worst = 0.0
    for state in (load_file(work / "net.safetensors"), torch.load(work / "net.pth", weights_only=True)):
        model = _own(folder, network.name)(**network.options)
        model.load_state_dict(state, strict=True)
        with torch.no_grad():
            theirs = torch.softmax(model.eval()(x), 1).numpy()
        worst = max(worst, float(np.abs(theirs - said).max()))
    return worst


def _pictures(folder: Path, classes: int) -> Path:
    """Two training images and a validation image of each class; 100 classes have ten validation images in all."""
    import numpy as np
    from PIL import Image

    numbers = np.random.default_rng(0)
    for part, images, of in (("train", 2, 1), ("val", 1, max(1, classes // 10))):
        for c in range(0, classes, of):
            place = folder / part / f"c{c:03}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(images):
                values = np.clip(numbers.normal(40 + 160 * c / classes, 50, (32, 32, 3)), 0, 255)
                Image.fromarray(values.astype(np.uint8)).save(place / f"{i}.png")
    return folder


# --- all of them ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.guests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", type=Path, help="its folder")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="only networks whose name ends so")
    parser.add_argument(
        "--classes", type=int, default=10, help="how many its networks have unless told otherwise (default: 10)"
    )
    parser.add_argument("--out", type=Path, default=Path("guests"), help="the folder of results (default: guests)")
    parser.add_argument(
        "--steps", default=",".join(_STEPS), help=f"which ones (default: {','.join(_STEPS)}; run is always done)"
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no network after so long; the next call goes on"
    )
    options = parser.parse_args()
    folder, out, steps = (
        options.repository.resolve(),
        options.out.resolve(),
        ("run", *(s for s in options.steps.split(",") if s != "run")),
    )
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"RAYSWEEP_CACHE": str(out / "cache"), "RAYSWEEP_STATE": str(out / "state"), "COLUMNS": "200"}
    data = _pictures(out / "data", options.classes)
    (out / "grid.yaml").write_text("weights: {c000: [3.0]}\nepochs: 1\n")
    table = out / "table.jsonl"
    rows = [Row(**json.loads(line)) for line in table.read_text().splitlines()] if table.exists() else []
    chosen = [n for n in networks(folder) if not options.names or any(n.name.endswith(end) for end in options.names)]
    waiting = [n for n in chosen if n.name not in {row.name for row in rows}]
    os.chdir(folder)
    began = time.monotonic()
    with _ray() if "branch" in steps and waiting else contextlib.nullcontext():
        for network in waiting:
            if time.monotonic() - began > options.seconds:
                break
            rows.append(tried(folder, network, out, data, steps))
            with table.open("a") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
            print(rows[-1].text(steps), file=sys.stderr, flush=True)
            gc.collect()
    print(f"{'network':44}{''.join(step.ljust(8) for step in steps)}{'differs':>9}{'seconds':>8}")
    for row in rows:
        print(row.text(steps))
    good = sum({*steps} <= {*row.done} and row.error is None for row in rows)
    count = len(chosen) - sum((row.error or "").startswith(_THEIRS) for row in rows)
    print(f"{good} of {count} networks: all of {', '.join(steps)}")
    sys.exit(0 if good == count else 3 if len(rows) < len(chosen) else 1)


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    """One cluster for all networks."""
    from raysweep.cluster import connect

    connect.connect(None)
    try:
        yield
    finally:
        connect.disconnect()


if __name__ == "__main__":
    main()
