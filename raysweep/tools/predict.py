"""Load a trained network from its checkpoint, and predict the classes of image files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from raysweep._text import truncate
from raysweep.config import foreign
from raysweep.config.load import explain
from raysweep.config.settings import DataSection
from raysweep.data.pillow import USUAL, Geometry
from raysweep.data.roles import record
from raysweep.data.roles.record import ImageRoles
from raysweep.errors import ConfigError, StoreError
from raysweep.plan import parent as parents
from raysweep.plan.upgrade import Upgraded, upgrade
from raysweep.store import checkpoint, files, resolve
from raysweep.store import trust as trusting
from raysweep.store.records import Json
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Trust
from raysweep.tools.adjust import Adjustment, check_metric, fit
from raysweep.training import conditions, guest, models
from raysweep.training.trial import arranged

AT_ONCE = 64  # images


@dataclass(frozen=True)
class Network:
    """A trained network and how to feed it.

    ``model`` maps float32 (n, channels, height, width) to logits (n, classes). Its input is standardised as
    ``(pixel - mean) / std`` with pixels in [0, 255].
    """

    model: nn.Module
    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]  # (height, width, channels) of the images it was trained on
    source: str  # checkpoint reference
    sha256: str
    channels_last: bool = False  # the memory format of ``model`` and of its input
    adjustment: Adjustment | None = None  # its offsets are not part of ``model``
    settings: Json = field(default_factory=dict)  # nested, those of the checkpoint
    seed: int | None = None
    sealed: str | None = None  # the hash of its experiment's test images, where that is recorded
    own: bool = False  # its places are this user's; any other checkpoint may come from anybody
    geometry: Geometry = USUAL  # how its images became squares
    notes: tuple[str, ...] = ()  # what people should know, such as that the user's code has changed since

    def facts(self) -> dict[str, Any]:
        """Everything that another program needs to use it, as JSON."""
        height, width, channels = self.shape
        return {
            "model": self.name,
            "classes": list(self.classes),
            "input": {
                "shape": ["batch", channels, height, width],
                "type": "float32",
                "pixels": "0 to 255, resized to height and width; gray where there is one channel",
                "fit": self.geometry.fit,
                "background": self.geometry.background,
                "mean": list(self.mean),
                "std": list(self.std),
                "formula": "(pixel - mean) / std",
            },
            "output": {"shape": ["batch", len(self.classes)], "meaning": f"logits; {self.meaning} gives probabilities"},
            "checkpoint": self.source,
            "checkpoint_sha256": self.sha256,
            "raysweep": metadata.version("raysweep"),
            **({"notes": list(self.notes)} if self.notes else {}),
        } | ({} if self.adjustment is None else {"adjusted": self.adjustment.facts()})

    @torch.no_grad()
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for uint8 images (n, height, width, channels)."""
        with guest.quiet(self.name):
            return self.of_logits(self.logits(self.standardised(pixels))).numpy()

    @property
    def multi_label(self) -> bool:
        """Whether an image has several labels, each with a probability of its own."""
        return bool((self.settings.get("data") or {}).get("multi_label"))

    @property
    def meaning(self) -> str:
        """The function that makes probabilities of logits."""
        return "sigmoid" if self.multi_label else "softmax"

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The probabilities, (n, classes)."""
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=1)

    @property
    def offsets(self) -> torch.Tensor:
        """float32 (classes,), which are added to the logits; zeros if the network is not adjusted."""
        known = {} if self.adjustment is None else self.adjustment.offsets
        return torch.tensor([known.get(c, 0.0) for c in self.classes])

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """float32 (n, classes) for standardised images, with the offsets."""
        logits: torch.Tensor = self.model(x)
        return logits if self.adjustment is None else logits + self.offsets

    def standardised(self, pixels: np.ndarray) -> torch.Tensor:
        """The network's input for uint8 images (n, height, width, channels)."""
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return arranged((x - mean) / std, self.channels_last)

    @contextlib.contextmanager
    def in_ordinary_format(self) -> Iterator[Network]:
        """In this context the network is in PyTorch's ordinary memory format, which every network takes, and other programs use."""
        self.model.to(memory_format=torch.contiguous_format)
        try:
            yield replace(self, channels_last=False)
        finally:
            self.model.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


def load(
    root: Root,
    reference: str,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    trust: Trust = NOBODY,
    adjust: str | None = None,
) -> Network:
    """The network of a checkpoint, on the CPU, ready to predict.

    Args:
        adjust: a metric for which offsets are fitted and added to the logits, see :mod:`raysweep.tools.adjust`.
        overrides, classes: what a checkpoint of the old system does not say, see :func:`parent.read_parent`.

    Raises:
        NotFoundError, CheckpointError: there is no such checkpoint, or it is damaged. ConfigError: its model cannot be built.
        UntrustedError: it names code that nobody has approved. InputError: it cannot be adjusted.
    """
    if adjust is not None:
        check_metric(adjust)
    experiment, entry, path = resolve.find_checkpoint(root, reference)
    if entry is not None and (problem := entry.verify(experiment.folder)) is not None:
        raise StoreError(f"{experiment.folder}: {problem}. Take another checkpoint.")
    adjustment = None if adjust is None else fit(experiment, entry, reference, adjust)
    over = overrides or {}
    found = upgrade(checkpoint.read_checkpoint(path), experiment, path, over, classes)
    saved = found.checkpoint
    section = _model_section(found, over, path)
    origin = parents.origin_of(root, experiment, path, saved)
    trusting.settle(trust, origin, found.settings, over)
    shape = _shape(saved["preprocessing"], section["name"], over)
    model = _model(section, shape, saved, path)
    channels_last = bool((found.settings.get("training") or {}).get("channels_last"))
    model.eval().to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return Network(
        model=model,
        name=section["name"],
        classes=tuple(saved["classes"]),
        mean=tuple(saved["preprocessing"]["mean"]),
        std=tuple(saved["preprocessing"]["std"]),
        shape=shape,
        channels_last=channels_last,
        source=f"{experiment.id}@{entry.epoch}" if entry is not None and entry.batch is None else str(path),
        sha256=entry.sha256 if entry is not None else files.sha256_file(path),
        adjustment=adjustment,
        settings=found.settings,
        seed=found.settings.get("seed"),
        sealed=None if (seal := experiment.manifest().sealed) is None else seal.sha256,
        own=trusting.known(trust, origin, foreign.places(found.settings)),
        geometry=_geometry(found.settings, over, path),
        notes=_notes(saved, section),
    )


def _model(section: Json, shape: tuple[int, int, int], saved: Mapping[str, Any], path: Path) -> nn.Module:
    model = models.build(
        section["name"],
        dict(section.get("options") or {}),
        len(saved["classes"]),
        shape[2],
        pretrained=False,
        trusted=True,
        path=section.get("path"),
        head=section.get("head"),
        size=shape[:2],
    )
    models.load_weights(model, saved, path)
    return model


def _geometry(settings: Json, overrides: Mapping[str, Any], path: Path) -> Geometry:
    """How the network's images became squares. Raises ConfigError where its settings say so in no known word."""
    data = {**(settings.get("data") or {}), **(overrides.get("data") or {})}
    given = {key: data[key] for key in Geometry._fields if data.get(key) is not None}
    try:
        section = DataSection.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain(error, DataSection, f"data of {truncate(path)}")) from None
    return Geometry(section.fit, section.background)


def _notes(saved: Mapping[str, Any], section: Json) -> tuple[str, ...]:
    changed = conditions.changed_code(saved, section["name"], section.get("path"))
    return () if changed is None else (changed,)


def _model_section(found: Upgraded, overrides: Mapping[str, Any], path: Path) -> Json:
    """The section ``model`` of the settings, with what the user says.

    Raises:
        ConfigError: the checkpoint lacks something without which no network can be built.
    """
    section = {**(found.settings.get("model") or {}), **(overrides.get("model") or {})}
    lacking = [k for k in ("classes", "preprocessing") if not found.checkpoint.get(k)]
    lacking += [] if section.get("name") else ["its model"]
    if lacking:
        raise ConfigError(f"{truncate(path)} does not say {' and '.join(lacking)}, so its network cannot be built.")
    return section


def _shape(preprocessing: Json, model: str, overrides: Mapping[str, Any]) -> tuple[int, int, int]:
    """(height, width, channels) of the images that the network was trained on.

    Raises:
        ConfigError: neither the checkpoint, the user nor the model says how large they were.
    """
    from raysweep.training import hub

    height, width, channels = preprocessing.get("shape") or (0, 0, 0)
    if height and width and channels:
        return height, width, channels
    side = int((overrides.get("data") or {}).get("image_size") or 0) or hub.input_size(model)
    if not side:
        raise ConfigError("The checkpoint does not say how large its images were. Add data.image_size=PIXELS.")
    return side, side, len(preprocessing["mean"])


def roles_of(root: Root, reference: str) -> ImageRoles | None:
    """Which images the experiment of a checkpoint was trained on, and which are sealed; None where that is not recorded."""
    experiment, _, _ = resolve.find_checkpoint(root, reference)
    with contextlib.suppress(StoreError):  # damaged: `verify` says so, and the network can be used all the same
        return record.read(experiment.folder)
    return None


def read_image(network: Network, path: Path) -> np.ndarray | str:
    """An image file as uint8 (height, width, channels), decoded as for the training; or a text that says why it cannot be."""
    from raysweep.data import decode

    height, _, channels = network.shape
    found = decode.decode_file(path, height, channels, network.geometry)
    return found if isinstance(found, str) else found.pixels


def predictions(network: Network, paths: Sequence[Path]) -> Iterator[tuple[Path, list[float] | str]]:
    """Each path with the probability of every class, or with a text that says why its image cannot be used."""
    from raysweep.data import pillow

    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        with pillow.quiet():
            read = [read_image(network, path) for path in some]
        good = [pixels for pixels in read if not isinstance(pixels, str)]
        found = iter(network.probabilities(np.stack(good)).tolist() if good else [])
        for path, image in zip(some, read, strict=True):
            yield path, image if isinstance(image, str) else next(found)
