"""Shared by all tests: one image cache per session, small data, quick runs in this process, one Ray cluster."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from raysweep.events import Event
from raysweep.store.root import Root

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Hundreds of interpreters start here. Each would compile the package anew where no bytecode may be written.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
hypothesis.settings.register_profile("raysweep", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("raysweep")


S3_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
HEAVY_AT_COLLECTION = pytest.StashKey[list[str]]()


OF_FIXTURES = {"ray_cluster": "ray", "browser": "browser", "s3_port": "cloud"}


# Files and folders whose slow tests take longest: they begin first, so that no process is left with one of them at the end.
LONGEST = (
    "launch/sweep",
    "launch",
    "docs",
    "journeys",
    "cluster",
    "test_notebooks.py",
    "cli/test_hostile.py",
    "trackers",
    "training/test_events.py",
)


def _slow_ones(config: pytest.Config) -> bool:
    """Whether only slow tests, or some of them, were asked for."""
    return config.option.markexpr.startswith(("slow", "long"))


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that uses the cluster, the browser or the object store has the marker that says so; a slow one has half an hour, since
    the machine may be busy, and those that take longest begin first."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
        for fixture in OF_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(OF_FIXTURES[fixture])
    if _slow_ones(config):
        places = [str(config.rootpath / "tests" / place) for place in LONGEST]
        items.sort(key=lambda i: next((n for n, p in enumerate(places) if str(i.path).startswith(p)), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of processes that share the tests, one gets all files that use the Ray cluster, and each gets whole files: what is made
    once for a module or a session is then made once. Slow tests use the cluster for so long that each folder may get its own."""
    from xdist.scheduler import LoadScopeScheduling

    slow = _slow_ones(config)
    if slow:
        config.option.loadscopereorder = False  # by the number of tests: the longest would come last

    @functools.cache
    def scope(file: str) -> str:
        if "ray_cluster" not in (config.rootpath / file).read_text():
            return file
        return f"ray in {file.rpartition('/')[0]}" if slow else "ray"

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid.split("::", 1)[0])

    return ByFile(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what collecting has imported, for test_house."""
    session.config.stash[HEAVY_AT_COLLECTION] = [m for m in ("torch", "ray") if m in sys.modules]


def pytest_sessionfinish() -> None:
    """Delete the folder in which the server of forks listens: a process of xdist ends without the interpreter's own end."""
    util = sys.modules.get("multiprocessing.util")
    for waiting in [] if util is None else [*util._finalizer_registry.values()]:
        if waiting._callback is util._remove_temp_dir:
            waiting()


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images are decoded once per session, not once per test root."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["RAYSWEEP_CACHE"] = str(folder)
    os.environ["COLUMNS"] = "160"
    yield folder
    del os.environ["RAYSWEEP_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is recorded of this user lies in a folder of the session, not in the home folder."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["RAYSWEEP_STATE"] = str(folder)
    yield folder
    del os.environ["RAYSWEEP_STATE"]


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """``os.fsync`` in this process only looks at its file: nobody pulls a plug here, and waiting for the disk costs minutes.
    When it is called, and what follows where it fails, is asserted with calls that the tests put in its place."""
    before = os.fsync
    os.fsync = lambda fd: os.fstat(fd) and None  # type: ignore[assignment,func-returns-value]
    yield
    os.fsync = before


@pytest.fixture(scope="session", autouse=True)
def small_pictures(pytestconfig: pytest.Config) -> Iterator[Callable[[Any], None]]:
    """A training in this process writes pictures of a few pixels, which tell the same source: drawing takes longer than such a training.
    Programs draw real ones, and so do slow tests, those of pictures and those that ask for :func:`real_pictures`."""
    from raysweep.report import figures

    before = figures.write_all
    if not _slow_ones(pytestconfig):
        figures.write_all = write_small_pictures
    yield before
    figures.write_all = before


@pytest.fixture
def real_pictures(small_pictures: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this test draw their pictures."""
    monkeypatch.setattr("raysweep.report.figures.write_all", small_pictures)


def write_small_pictures(experiment: Any) -> None:
    """As ``figures.write_all``, with a tiny figure in each picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from raysweep.report import figures, predictions
    from raysweep.store import files, layout

    found, tiny = predictions.read(experiment), Figure(figsize=(0.1, 0.1))
    FigureCanvasAgg(tiny)
    files.write_atomic(experiment.folder / layout.REPORT, figures.report(found, experiment.id))
    for name, source in ((layout.CONFUSION, found.sha256), (layout.HISTORY_PNG, figures.history_source(experiment))):
        files.write_atomic(experiment.folder / name, figures.png(tiny, source))


def draw_classes(folder: Path, counts: dict[str, int], size: int = 12, seed: int = 0, suffix: str = ".png") -> None:
    """Class folders of small gray images whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    for c, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(40 + 60 * c, 30, (size, size)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:04}{suffix}")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """``train/`` and ``val/`` of three classes, 3 : 1 imbalanced."""
    folder = tmp_path / "images"
    draw_classes(folder / "train", {"cat": 30, "dog": 10, "eel": 20})
    draw_classes(folder / "val", {"cat": 9, "dog": 6, "eel": 6}, seed=1)
    return folder


SMALL_NET = {"name": "cnn", "options": {"widths": [4, 4, 8, 8]}}


def small_settings(root: Path | str, **sections: Any) -> Any:
    """Settings of a run that takes a second: the built-in digits, a tiny network."""
    from raysweep.config import load as load_config

    base = {
        "data": {"source": "digits"},
        "model": SMALL_NET,
        "training": {"epochs": 2, "batch_size": 200, "augment": {"crop_padding": 1, "flip": False}},
        "scaling": {"num_workers": 0, "threads": 1},
        "sampling": {"samples_per_epoch": 500},
        "experiment": {"name": "small"},
        "root": str(root),
    }
    return load_config.validate(load_config.merge(base, sections))


class Recorder:
    """A reporter that keeps every event and asks to stop after ``stop_after`` batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events: list[Event] = []
        self.stop_after = stop_after
        self.asked = 0

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def should_stop(self) -> str | None:
        self.asked += 1  # on the CPU the loop asks once per batch
        return "TEST" if self.stop_after is not None and self.asked >= self.stop_after else None


def folder_run(folder: Path, splits: dict[str, dict[str, int]], size: int = 12, **sections: Any) -> Any:
    """An experiment on drawn images: split → class → how many."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    for seed, (split, counts) in enumerate(splits.items()):
        draw_classes(folder / "images" / split, counts, size=size, seed=seed)
    settings = small_settings(
        folder / "experiments",
        data={"source": "folder", "path": str(folder / "images")},
        model=SMALL_NET,
        sampling={"samples_per_epoch": None},
        experiment={"name": "base"},
        **sections,
    )
    return launching.run(experiment_plan.plan_experiment(settings)).experiment


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorder], Recorder]:
    """Train by calling the training function itself: the same code without Ray's trainer around it."""

    def use(recorder: Recorder) -> Recorder:
        from raysweep.launch.workers import start as workers
        from raysweep.training.loop import train

        monkeypatch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, recorder))
        return recorder

    use(Recorder())
    return use


@pytest.fixture
def quick_run(tmp_path: Path, without_ray: Callable[[Recorder], Recorder]) -> Callable[..., Any]:
    """Run a small experiment in this process; returns it."""

    def go(**sections: Any) -> Any:
        from raysweep.launch import run as launching
        from raysweep.plan import experiment as experiment_plan

        return launching.run(
            experiment_plan.plan_experiment(small_settings(tmp_path / "experiments", **sections))
        ).experiment

    return go


@pytest.fixture
def quick_child(tmp_path: Path, without_ray: Callable[[Recorder], Recorder]) -> Callable[..., Any]:
    """Run a child of a checkpoint (reference or path) in this process; returns its experiment."""

    def go(reference: object, **options: Any) -> Any:
        from raysweep.launch import run as launching
        from raysweep.plan import child
        from raysweep.plan import parent as parents

        root = tmp_path / "experiments"
        return launching.run(
            child.plan_child(parents.read_parent(Root.open(root), str(reference)), Root.open(root), **options)
        ).experiment

    return go


def weights_hash(experiment: Any, which: str = "latest") -> str:
    """SHA-256 of weights and optimizer state of a checkpoint: equal exactly where the training state is equal."""
    import hashlib

    import torch

    from raysweep.store import checkpoint

    state = checkpoint.read_checkpoint(experiment.folder / experiment.entry(which).file)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(str(value.dtype).encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(state["model_state_dict"])
    add(state["optimizer_state_dict"])
    return digest.hexdigest()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for all tests that need one."""
    from raysweep.cluster import connect

    before = dict(os.environ)
    os.environ.update(S3_KEYS)  # its workers write into the pretended object store, too
    os.environ.update({"RAY_metrics_report_interval_ms": "1000"})  # test_gauges waits for a report
    connect.connect(None)
    os.environ.clear()  # Ray has told this process to use its token, and every program that it starts
    os.environ.update(before)
    yield
    connect.disconnect()


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Any]:
    """Two processes that train together without Ray, for all tests: starting them takes seconds."""
    from tests.training.ranks import Ranks

    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of one S3 server for all tests that need one; each begins with an empty bucket."""
    from tests.store.remote.objectstore import moto_server

    with moto_server() as port:
        yield port


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium without a window."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty record of what this user made on this machine; it is made with its first entry."""
    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("RAYSWEEP_TRUST", raising=False)
    return tmp_path / "state"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes files into the folder in which the user stands; what was imported from there is forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = set(sys.modules)

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return folder

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run_cells(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs cells as a notebook does: in a module ``__main__`` without a file."""

    def go(*cells: str) -> None:
        import linecache
        from types import ModuleType

        from raysweep.training import guest_main

        monkeypatch.setattr(guest_main, "_here", set())
        module = ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", module)
        for number, text in enumerate(cells):
            name = f"<cell {number}>"
            linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
            exec(compile(text, name, "exec"), module.__dict__)

    return go
