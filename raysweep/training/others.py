"""Files of weights that others wrote: which file of a folder is meant, what a file says of its network, and what lies beside it.

Nothing of them is ever run, see :mod:`raysweep.store.untrusted.tensors`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep._paths import user_path
from raysweep._text import Nested, join_names, truncate
from raysweep.errors import CheckpointError, NotFoundError
from raysweep.store import frozen, layout
from raysweep.store.files import open_regular
from raysweep.store.untrusted import tensors
from raysweep.store.untrusted.pickled import Name, Thing
from raysweep.store.untrusted.tensors import Opened, Place

# As transformers names them in the folders that it saves; the first that is there is read.
_OF_TRANSFORMERS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_ENDINGS = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors", ".th", ".t7", ".pkl")
# What trainers write beside the weights.
_NO_WEIGHTS = (
    "training_args.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state",
    "random_states",
)
_MOST_JSON = 20_000_000  # bytes


@dataclass(frozen=True)
class Said:
    """What a file says of its network besides the weights."""

    classes: Any = None  # in the order of its outputs; of any type
    pixels: Any = None  # {"mean": …, "std": …} for pixels in [0, 255]; of any type
    network: str = ""  # its name, as the program that wrote the file calls it


@contextlib.contextmanager
def opened(path: str) -> Iterator[Opened]:
    """The file, or the folder of a trainer, that ``model.init_from`` names.

    Raises:
        NotFoundError: there is no such file. CheckpointError: it cannot be read, or the folder has several.
    """
    files = _files(user_path(path), path)
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(tensors.opened(file)) for file in files]
        if len(parts) > 1:
            yield _together(parts, path)
        elif isinstance(parts[0].content, dict) and type(parts[0].content.get("format_version")) is int:
            yield _of_raysweep(parts[0], files[0], stack)
        else:
            yield parts[0]


def _of_raysweep(part: Opened, file: Path, stack: contextlib.ExitStack) -> Opened:
    """A checkpoint of raysweep as one network: with its frozen part, and where weights were averaged, the average alone.

    Raises:
        NotFoundError, CheckpointError: its frozen part is missing, or is another one.
    """
    content = {key: value for key, value in part.content.items() if key != "trained_state_dict"}
    told, own = content.get(frozen.KEY), content.get("model_state_dict")
    if not isinstance(told, dict) or not isinstance(own, dict):
        return Opened(content, part.load)
    beside_it = file.with_name(layout.FROZEN)
    if (wrong := frozen.problem(beside_it, {"sha256": told.get("sha256")})) is not None:
        raise CheckpointError(f"{truncate(file)} needs the frozen part of its network, and {wrong}. Copy it there.")
    still = stack.enter_context(tensors.opened(beside_it))
    places = {id(place) for place in still.content.values()}
    content["model_state_dict"] = {**still.content, **own}
    return Opened(content, lambda place: (still if id(place) in places else part).load(place))


def _together(parts: Sequence[Opened], path: str) -> Opened:
    """One network in several files."""
    content: Nested = {}
    owner: dict[int, Opened] = {}
    for part in parts:
        if not isinstance(part.content, dict) or {*part.content} & {*content}:
            raise CheckpointError(f"The parts of {truncate(path)} do not fit together. Copy the folder again.")
        content |= part.content
        owner |= {id(place): part for place in part.content.values()}
    return Opened(content, lambda place: owner[id(place)].load(place))


def _files(found: Path, path: str) -> list[Path]:
    if found.name.endswith(".index.json"):
        return _shards(found)
    if not found.is_dir():
        return [found]
    for name in _OF_TRANSFORMERS:
        if (found / name).is_file():
            return _files(found / name, path)
    if any(found.glob("*.distcp")):
        raise CheckpointError(
            f"{truncate(path)} is a checkpoint of torch.distributed.checkpoint, in parts. Make one file of it: python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    some = [f for f in sorted(found.iterdir()) if f.suffix in _ENDINGS and not f.name.startswith(_NO_WEIGHTS)]
    if not some:  # a trainer's folder of folders
        some = [f.parent for name in _OF_TRANSFORMERS for f in sorted(found.glob(f"*/{name}"))]
    if len(some) == 1 and some[0].is_file():
        return some
    if some:
        names = join_names([f.name for f in some])
        raise CheckpointError(f"model.init_from: the folder {truncate(path)} has {names}. Name the one that you mean.")
    raise NotFoundError(f"model.init_from: there are no weights in the folder {truncate(path)}. Name the file.")


def _shards(index: Path) -> list[Path]:
    """The files that an index of transformers lists; each must lie beside it."""
    named = _json(index).get("weight_map")
    names = sorted({n for n in named.values() if isinstance(n, str)}) if isinstance(named, dict) else []
    if not names or any(n != Path(n).name for n in names):
        raise CheckpointError(f"{truncate(index)} lists no files beside it. Copy the folder again.")
    return [index.parent / n for n in names]


def _json(file: Path) -> Nested:
    """The content of a JSON file; nothing where there is none."""
    try:
        with open_regular(file) as opened_file:
            content = json.loads(opened_file.read(_MOST_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# --- what it says -----------------------------------------------------------------------------------------------------


def said(path: str) -> Said:
    """What a file, or the folder in which it lies, says of its network.

    Raises:
        NotFoundError, CheckpointError: as :func:`opened`.
    """
    with opened(path) as file:
        content, meta = file.content, file.metadata
    if meta.get("classes") or meta.get("input"):  # safetensors of raysweep
        return Said(_parsed(meta.get("classes")), _parsed(meta.get("input")))
    if user_path(path).is_dir():
        of_folder = _of_transformers(user_path(path))
        if of_folder != Said():
            return of_folder
    if not isinstance(content, dict):
        return Said()
    names = (content.get(key) for key in ("arch", "architecture", "model_name", "backbone"))
    network = next((n for n in names if isinstance(n, str)), "")
    return Said(_classes(content), content.get("preprocessing"), network)


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _of_transformers(folder: Path) -> Said:
    """What ``config.json`` and ``preprocessor_config.json`` say."""
    config, form = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    names = _in_order(config.get("id2label"))
    if names == [f"LABEL_{i}" for i in range(len(names or ()))]:  # for outputs without a name
        names = None
    architectures = config.get("architectures")
    network = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    mean, std, factor = form.get("image_mean"), form.get("image_std"), form.get("rescale_factor", 1 / 255)
    pixels = None
    if isinstance(mean, list) and isinstance(std, list) and form.get("do_normalize", True):
        factor = factor if form.get("do_rescale", True) else 1.0
        with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
            pixels = {"mean": [float(n) / factor for n in mean], "std": [float(n) / factor for n in std]}
    return Said(names, pixels, truncate(network, 100))


def _classes(content: Mapping[Any, Any]) -> Any:
    """The names of the outputs under the keys that programs use for them."""
    for key in ("classes", "class_names"):
        if isinstance(content.get(key), (list, tuple)):
            return content[key]
    for key in ("class_to_idx", "label2id"):
        value = content.get(key)
        if isinstance(value, dict) and all(type(n) is int for n in value.values()):
            return _in_order({n: name for name, n in value.items()})
    return _in_order(content.get("idx_to_class") or content.get("id2label"))


def _in_order(names: Any) -> list[str] | None:
    """``{0: a, 1: b}`` → [a, b]; None where the numbers are not 0, 1, …."""
    if not isinstance(names, dict) or not all(str(k).isdecimal() for k in names):
        return None
    found = {int(k): name for k, name in names.items()}
    complete = sorted(found) == [*range(len(found))] and all(isinstance(n, str) for n in found.values())
    return [found[i] for i in range(len(found))] if complete and found else None


# --- what lies beside the weights -------------------------------------------------------------------------------------


def beside(content: Any, path: Sequence[str]) -> list[str]:
    """What a file holds beside the weights at ``path``: keys, with the class of the Python object that one holds."""
    names: list[str] = []
    for at, step in enumerate(path):
        entries = entries_of(content)
        others = {k: v for k, v in entries.items() if isinstance(k, str) and k != step}
        names += [_described(".".join([*path[:at], key]), value) for key, value in others.items()]
        content = entries.get(step)
    entries = entries_of(content)
    return names + [
        _described(".".join([*path, k]), v)
        for k, v in entries.items()
        if isinstance(k, str) and not isinstance(v, Place) and (not isinstance(content, Thing))
    ]


def entries_of(value: Any) -> dict[Any, Any]:
    """What a value of a file holds by keys: a dict, or an object with attributes."""
    if isinstance(value, Thing):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        return {**value.entries, **state} if isinstance(state, dict) else value.entries
    return value if isinstance(value, dict) else {}


def _described(key: str, value: Any) -> str:
    what = _object_in(value)
    return truncate(key, 80) + (f" ({truncate(what, 80)})" if what else "")


def _object_in(value: Any) -> str | None:
    """The class of the first Python object in a value."""
    seen: set[int] = set()
    rest = [value]
    while rest and len(seen) < 10_000:
        value = rest.pop()
        if isinstance(value, Name):
            return value.text.replace(" ", ".", 1)
        if isinstance(value, Thing):
            return "a number of NumPy" if value.name.endswith("multiarray.scalar") else value.name
        if id(value) not in seen and isinstance(value, (dict, list, tuple)):
            seen.add(id(value))
            rest += [*value.values()] if isinstance(value, dict) else list(value)
    return None
