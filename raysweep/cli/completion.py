"""What the shell offers at the Tab key: experiments, sweeps, checkpoints, options of the configuration, words of options.

Everything here is quick and silent: where nothing can be found, nothing is offered.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from typer.models import ParameterInfo

from raysweep._paths import is_address

MOST = 200  # offers; more help nobody

Complete = Callable[[typer.Context, str], list[str]]


def words(*choices: str) -> Complete:
    """Offer these words."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [c for c in choices if c.startswith(incomplete)]

    return complete


def _folders(place: Path, start: str, holds: str) -> Iterator[str]:
    with os.scandir(place) as rows:
        for row in rows:
            if row.name.startswith(start) and os.path.isfile(os.path.join(row.path, holds)):
                yield row.name


def _experiments(root: Path, incomplete: str) -> list[str]:
    from raysweep.store import layout

    return list(_folders(root, incomplete, layout.CONFIG))


def _sweeps(root: Path, incomplete: str) -> list[str]:
    from raysweep.store import layout

    place = root / layout.SWEEPS
    return list(_folders(place, incomplete, layout.SWEEP)) if place.is_dir() else []


def _checkpoints(root: Path, incomplete: str) -> list[str]:
    from raysweep.store import layout

    name, at, _ = incomplete.partition("@")
    if not at:
        return [f"{e}@{which}" for e in _experiments(root, incomplete) for which in ("best", "latest")]
    positions = map(layout.parse_checkpoint_name, os.listdir(root / name))
    epochs = sorted(p.epoch for p in positions if p is not None and p.batch is None)
    return [f"{name}@{which}" for which in ("best", "latest", *epochs)]


def _settings(root: Path, incomplete: str) -> list[str]:
    from raysweep.config import load

    key, equals, _ = incomplete.partition("=")
    if equals:
        return [f"{key}={word}" for word in load.words_of(key)]
    return [f"{name}=" for name in load.option_names()]


def _files(*named: str) -> Callable[[Path, str], list[str]]:
    def find(root: Path, incomplete: str) -> list[str]:
        folder, _, _ = incomplete.rpartition("/")
        there = os.listdir(folder or ".")
        own = [f"{folder}/{name}" if folder else name for name in there if name.endswith((".yaml", ".yml"))]
        return [*named, *own]

    return find


def _any(*finders: Callable[[Path, str], list[str]]) -> Complete:
    """Offer what these functions find for (the root, the text so far). A root on an object store is not asked."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        root = str(ctx.params.get("root") or os.environ.get("RAYSWEEP_ROOT") or "experiments")
        found: list[str] = []
        for find in finders:
            with contextlib.suppress(Exception):  # a traceback at the Tab key helps nobody
                found += [] if is_address(root) else find(Path(root).expanduser(), incomplete)
        return sorted(text for text in found if text.startswith(incomplete))[:MOST]

    return complete


_EITHER = _any(_experiments, _sweeps)
_EVERYTHING = _any(_experiments, _sweeps, _checkpoints)
_SWEEPS = _any(_sweeps)
_NAMED = {  # parameter → what it takes
    "checkpoint": _any(_checkpoints),
    "overrides": _any(_settings),
    "config": _any(_files("base", "fer2013"), _settings),
    "weights_grid": _any(_files("grid", "rules")),
    "reference": _EITHER,
    "references": _EITHER,
    "sweep": _SWEEPS,
    "form": words("safetensors", "onnx", "torchscript"),
}
_OF_VERB = {
    ("show", "reference"): _EVERYTHING,
    ("evaluate", "reference"): _EVERYTHING,
    ("lineage", "reference"): _any(_experiments),
    ("prune", "references"): _any(_experiments),
    ("verify", "references"): _any(_experiments, _checkpoints),
    ("diff", "a"): _any(_experiments, _checkpoints),
    ("diff", "b"): _any(_experiments, _checkpoints),
    ("suggest", "metric"): words("macro_f1", "accuracy"),
    ("compare", "metric"): words("learned", "f1", "recall", "precision", "ap", "auroc"),
    ("list", "sort"): words("created", "id", "best_acc", "best_macro_f1", "epochs_done", "status"),
    ("list", "status"): words("running", "finished", "interrupted", "failed", "crashed", "legacy", "damaged"),
}


def attach(app: typer.Typer) -> None:
    """Give the parameters of all commands what completes them."""
    for command in app.registered_commands:
        if command.callback is None:
            continue
        for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
            complete = _OF_VERB.get((str(command.name), name)) or _NAMED.get(name)
            for told in (parameter.default, *getattr(parameter.annotation, "__metadata__", ())):
                if complete is not None and isinstance(told, ParameterInfo):
                    told.autocompletion = complete
