"""The configuration and the grid that ``raysweep init`` writes: small, commented, and fitting to the images that were looked at."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

GRID_FILE = "grid.yaml"
CONFIG_FILE = "config.yaml"
_LISTED = 12  # classes in a comment
_LARGE = 96  # pixels of the side from which on the small network is too small
_EVEN = (
    1.2  # how many times as many images the most frequent class has, up to which classes are called equally frequent
)


@dataclass(frozen=True)
class Seen:
    """What was seen of the images. ``counts`` and ``validation``: class → images; ``side``: in pixels."""

    path: str
    name: str
    counts: Mapping[str, int]
    validation: Mapping[str, int]
    side: int
    channels: int
    sized: bool  # whether the images have several sizes, so that one was chosen

    @property
    def images(self) -> int:
        return sum(self.counts.values())

    @property
    def by_size(self) -> list[str]:
        """The classes, the rarest first."""
        return sorted(self.counts, key=lambda c: self.counts[c])

    @property
    def times(self) -> float:
        """How many times as many images the most frequent class has as the rarest one."""
        first, last = self.by_size[0], self.by_size[-1]
        return self.counts[last] / max(1, self.counts[first])

    @property
    def epochs(self) -> int:
        """As many as show about 200,000 images, from 5 to 30."""
        return min(30, max(5, round(200_000 / max(1, self.images))))

    @property
    def batch_size(self) -> int:
        """64, or less where an epoch would have fewer than ten batches."""
        return next((size for size in (64, 32, 16) if self.images >= 10 * size), 8)


def _quoted(text: str) -> str:
    """A text in YAML, whatever characters it has."""
    return json.dumps(text, ensure_ascii=False)


def _table(seen: Seen) -> list[str]:
    """Comments with the images of the rarest and of the most frequent classes."""
    order = seen.by_size
    half = _LISTED // 2
    rows = order if len(order) <= _LISTED else [*order[:half], None, *order[-half:]]
    told = []
    for c in rows:
        if c is None:
            told.append(f"  #   … {len(order) - 2 * half:,} more classes")
            continue
        told.append(
            f"  #   {_quoted(c)}: {seen.counts[c]:,} ({seen.counts[c] / seen.images:.1%}), validation {seen.validation.get(c, 0):,}"
        )
    return told


def config_text(seen: Seen) -> str:
    """The configuration, in YAML."""
    kind = {1: "gray", 3: "color"}[seen.channels]
    shape = f"{seen.side} × {seen.side} pixels, {kind}"
    size = f"  image_size: {seen.side}    # images of other sizes are cropped to squares and scaled"
    if not seen.sized:
        size = f"  # image_size: {seen.side}    # all images have this size"
    large = seen.side > _LARGE
    model = "torchvision:resnet18" if large else "cnn"
    others = "cnn is a smaller one" if large else "torchvision:resnet18 is a larger one"
    lines = [
        f"# {seen.images:,} training and {sum(seen.validation.values()):,} validation images of {len(seen.counts):,} classes, {shape}.",
        f"# Look first: raysweep run {CONFIG_FILE} --dry-run     Train: raysweep run {CONFIG_FILE}",
        "experiment:",
        f"  name: {_quoted(seen.name)}",
        "",
        "seed: 0",
        "",
        "data:",
        f"  path: {_quoted(seen.path)}",
        size,
        "",
        "sampling:",
        "  # class: number, 2 shows a class twice as often; classes not named get 1. Or a rule: balanced, sqrt. The training images:",
        *_table(seen),
        "  weights: {}",
        "",
        "model:",
        f"  name: {model}    # {others}; timm:NAME and hf:NAME bring trained weights; python:MODULE:FUNCTION is your own",
        "",
        "training:",
        f"  epochs: {seen.epochs}",
        f"  batch_size: {seen.batch_size}",
        f"  learning_rate: {'0.001' if large else '0.003'}    # the highest; it rises at the beginning and falls to the end",
        "",
    ]
    return "\n".join(lines)


def grid_text(seen: Seen) -> str:
    """The grid, in YAML: rules where classes differ in size, and the rarest class by itself."""
    rarest, most = seen.by_size[0], seen.by_size[-1]
    epochs = max(2, seen.epochs // 3)
    lines = [
        f"# After the first training: raysweep branch --from {shlex.quote(seen.name)}@best --weights-grid {GRID_FILE}",
        f"epochs: {epochs}             # that each branch trains on from the checkpoint",
        "control: true         # a branch with unchanged weights, to compare with",
        "seeds: [0, 1, 2]      # each branch once per seed: with one seed nothing can be shown",
        "branches:",
    ]
    if seen.times >= _EVEN:
        lines += [
            f"  # {_quoted(most)} has {seen.times:,.1f} times as many images as {_quoted(rarest)}.",
            "  - {name: sqrt, weights: sqrt}            # between the data and equal shares",
            "  - {name: balanced, weights: balanced}    # every class equally often",
        ]
    lines += [
        f"  - {{name: rarest-2, weights: {{{_quoted(rarest)}: 2.0}}}}",
        f"  - {{name: rarest-4, weights: {{{_quoted(rarest)}: 4.0}}}}",
        "",
    ]
    return "\n".join(lines)
