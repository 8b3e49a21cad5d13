"""A trained network out of its checkpoint: to predict with, and to take it to other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep.errors import ConfigError, DataError, StoreError
from raysweep.launch import child, legacy
from raysweep.names import cut
from raysweep.store import catalog, checkpoint, files
from raysweep.training import models

TOLERANCE = 1e-5  # between the probabilities of the network here and of what was exported
_TRIED = 8  # images


@dataclass(frozen=True)
class Network:
    """``model`` maps float32 (n, channels, height, width), standardised as ``(pixel - mean) / std`` with pixels in [0, 255], to
    logits (n, classes)."""

    model: nn.Module
    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]  # (height, width, channels) of the images it was trained on
    source: str  # checkpoint reference
    sha256: str

    def facts(self) -> dict[str, Any]:
        """All that another program needs to use it."""
        height, width, channels = self.shape
        return {
            "model": self.name,
            "classes": list(self.classes),
            "input": {
                "shape": ["batch", channels, height, width],
                "type": "float32",
                "pixels": "0 to 255, resized to height and width; gray where there is one channel",
                "mean": list(self.mean),
                "std": list(self.std),
                "formula": "(pixel - mean) / std",
            },
            "output": {"shape": ["batch", len(self.classes)], "meaning": "logits; softmax gives probabilities"},
            "checkpoint": self.source,
            "checkpoint_sha256": self.sha256,
            "raysweep": metadata.version("raysweep"),
        }

    @torch.no_grad()
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for uint8 images (n, height, width, channels)."""
        return torch.softmax(self.model(self.standardised(pixels)), dim=1).numpy()

    def standardised(self, pixels: np.ndarray) -> torch.Tensor:
        """The network's input for uint8 images (n, height, width, channels)."""
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def load(
    root: Path, reference: str, overrides: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> Network:
    """The network of a checkpoint, on the CPU, ready to predict.

    Args:
        overrides, classes: what a checkpoint of the old system does not say, see :func:`child.read_parent`.

    Raises:
        NotFoundError, CheckpointError: there is no such checkpoint, or it is damaged. ConfigError: its model cannot be built.
    """
    experiment, entry, path = catalog.find_checkpoint(root, reference)
    if entry is not None and (problem := entry.verify(experiment.folder)) is not None:
        raise StoreError(f"{experiment.folder}: {problem}. Take another checkpoint.")
    saved = checkpoint.read_checkpoint(path)
    over = dict(overrides or {})
    if legacy.is_old(saved):
        saved, settings = legacy.completed(saved, experiment, path, over, classes)
    else:
        settings = dict(saved["config"].get("settings") or {})
    section = {**(settings.get("model") or {}), **(over.get("model") or {})}
    lacking = [k for k in ("classes", "preprocessing") if not saved.get(k)] + (
        [] if section.get("name") else ["its model"]
    )
    if lacking:
        raise ConfigError(f"{cut(path)} does not say {' and '.join(lacking)}, so its network cannot be built.")
    own = entry is not None and files.inside(root, experiment.folder)
    child.same_function(path, own, section, over)
    means = saved["preprocessing"]
    shape = tuple(means.get("shape") or (0, 0, len(means["mean"])))
    if not all(shape):
        side = int((over.get("data") or {}).get("image_size") or 0) or _side(section["name"])
        shape = (side, side, len(means["mean"]))
    model = models.build(section["name"], dict(section.get("options") or {}), len(saved["classes"]), shape[2])
    models.load_weights(model, saved, path)
    model.eval()
    where = f"{experiment.id}@{entry.epoch}" if entry is not None and entry.batch is None else str(path)
    digest = entry.sha256 if entry is not None else files.sha256_file(path)
    return Network(
        model, section["name"], tuple(saved["classes"]), tuple(means["mean"]), tuple(means["std"]), shape, where, digest
    )


def _side(name: str) -> int:
    from raysweep.training import hub

    found = hub.input_size(name)
    if found is None:
        raise ConfigError("The checkpoint does not say how large its images were. Add data.image_size=PIXELS.")
    return found


def read_images(network: Network, paths: Sequence[Path]) -> np.ndarray:
    """uint8 (n, height, width, channels): image files, decoded as for the training.

    Raises:
        DataError: a file is missing or no image; the message names it.
    """
    from raysweep.data import cache

    height, _, channels = network.shape
    found = []
    for path in paths:
        pixels = cache.decode_file(path, height, channels)
        if isinstance(pixels, str):
            raise DataError(f"{cut(path)} cannot be used: {pixels}. Give image files such as .jpg or .png.")
        found.append(pixels)
    return np.stack(found)


# --- export -----------------------------------------------------------------------------------------------------------


def export(network: Network, form: str, target: Path) -> float:
    """Write the network into a file of another tool, with its facts as JSON beside it; both only once the file was loaded
    again and gave the same probabilities.

    Returns:
        The largest difference of a probability.

    Raises:
        ConfigError: the tool's library is not installed. StoreError: what was written gives other probabilities, or cannot be
        written.
    """
    height, width, channels = network.shape
    rng = np.random.default_rng(0)
    x = network.standardised(rng.integers(0, 256, (_TRIED, height, width, channels), dtype=np.uint8))
    with torch.no_grad():
        expected = torch.softmax(network.model(x), dim=1).numpy()
    temp = files.temp_path(target)
    try:
        found = {"safetensors": _safetensors, "onnx": _onnx, "torchscript": _torchscript}[form](network, x, temp)
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise StoreError(
                f"The exported network differs from the checkpoint's by {difference:.2g} in a probability, more than {TOLERANCE:g}; "
                "nothing was written. Please report it with the model's name."
            )
        files.write_atomic(target, files.read_all(temp))
        files.write_json(target.with_name(target.name + ".json"), {**network.facts(), "format": form})
    finally:
        temp.unlink(missing_ok=True)
    return difference


def _softmax(logits: Any) -> np.ndarray:
    return torch.softmax(torch.as_tensor(logits), dim=1).numpy()


def _safetensors(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    from safetensors.torch import load_file, save_file

    told = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in network.facts().items()}
    tensors = {k: v.detach().clone().contiguous() for k, v in network.model.state_dict().items()}
    save_file(tensors, target, metadata=told)
    network.model.load_state_dict({k: torch.zeros_like(v) for k, v in tensors.items()})  # nothing of it may be left
    try:
        network.model.load_state_dict(load_file(target))
        with torch.no_grad():
            return _softmax(network.model(x))
    finally:
        network.model.load_state_dict(tensors)


class _Logits(nn.Module):
    """The network as one module with one input, whatever library it is of."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.body(pixels)


def _torchscript(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    import warnings

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old, and that the size of the image is fixed
        traced = torch.jit.trace(_Logits(network.model), x[:2], check_trace=False)
        torch.jit.save(traced, str(target), _extra_files={"raysweep.json": json.dumps(network.facts())})
        again = torch.jit.load(str(target), map_location="cpu")
        return _softmax(again(x))


def _onnx(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    import contextlib
    import io
    import logging
    import warnings

    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - the exporter needs it
    except ImportError as error:
        raise ConfigError(
            f"--to onnx needs {error.name}, which is not installed. Install it with: pip install 'raysweep[onnx]'"
        ) from None
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(network.model).eval(), (x[:2],), str(target), input_names=["pixels"], output_names=["logits"],
                dynamo=True, dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}}, external_data=False, verbose=False,
            )  # fmt: skip
    finally:
        noise.setLevel(level)
    model = onnx.load(str(target))
    for key, value in network.facts().items():
        model.metadata_props.add(
            key=key, value=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
    onnx.save(model, str(target))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return _softmax(logits)
