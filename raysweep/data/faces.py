"""The built-in data: 48×48 grayscale faces drawn by the program, with seven emotions as imbalanced as FER-2013's.

Each emotion is a distribution over a few drawn features (brows, eyes, mouth). Fear and surprise overlap, sad and
neutral overlap, and disgust is rare. So a classifier makes the same kinds of mistakes as on real faces, and a change of
the sampling weights has an effect.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 48
CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# FER-2013's training counts (Goodfellow et al. 2013, https://arxiv.org/abs/1307.0414)
FER_COUNTS = (3995, 436, 4097, 7215, 4965, 4830, 3171)
TRAIN_IMAGES, VAL_IMAGES = 3000, 700
VERSION = 1  # part of the cache's key: raise it when a drawing changes
SEED = 2013


class Expression(NamedTuple):
    """Means of the drawn features, in pixels of a 48-pixel face; brow and mouth slopes are in [-1, 1]."""

    brow_tilt: float  # > 0: inner ends down (anger); < 0: inner ends up (sadness, fear)
    brow_lift: float
    eye_open: float
    mouth_curve: float  # > 0: corners up
    mouth_open: float
    mouth_width: float
    nose_wrinkle: float


EXPRESSIONS = {
    "angry": Expression(0.75, -1.0, 1.7, -0.45, 0.5, 6.0, 0.25),
    "disgust": Expression(0.45, -0.6, 1.3, -0.55, 1.0, 5.5, 0.75),
    "fear": Expression(-0.55, 1.3, 2.9, -0.30, 2.2, 5.6, 0.1),
    "happy": Expression(0.0, 0.3, 1.8, 0.85, 1.4, 7.4, 0.1),
    "neutral": Expression(0.0, 0.0, 2.0, 0.0, 0.3, 6.0, 0.1),
    "sad": Expression(-0.40, 0.3, 1.7, -0.42, 0.3, 5.6, 0.1),
    "surprise": Expression(-0.15, 1.9, 3.1, -0.05, 3.2, 4.9, 0.05),
}
# Standard deviation of each feature within one emotion: wide enough that similar emotions overlap.
SPREAD = Expression(0.27, 0.7, 0.5, 0.27, 0.75, 0.8, 0.2)
_SCALE = 4  # drawn larger, then reduced, which antialiases
_Points = list[tuple[float, float]]


def class_counts(total: int) -> dict[str, int]:
    """``total`` images split among the classes in FER-2013's proportions (largest remainder)."""
    from raysweep.weights import SamplingWeights

    even = SamplingWeights.complete({}, CLASSES)
    return even.quotas(dict(zip(CLASSES, FER_COUNTS, strict=True)), total)


class _Canvas:
    """Draws in the coordinates of a 48-pixel face on an image that is larger by ``_SCALE``."""

    def __init__(self, background: float) -> None:
        self.image = Image.new("L", (SIZE * _SCALE, SIZE * _SCALE), int(background))
        self._pen = ImageDraw.Draw(self.image)

    def ellipse(self, x: float, y: float, a: float, b: float, fill: float) -> None:
        self._pen.ellipse(self._box(x, y, a, b), fill=int(max(0, min(255, fill))))

    def ring(self, x: float, y: float, a: float, b: float, color: float) -> None:
        self._pen.ellipse(self._box(x, y, a, b), outline=int(color), width=_SCALE)

    def line(self, points: _Points, width: float, fill: float) -> None:
        self._pen.line(self._scaled(points), fill=int(fill), width=max(1, int(width * _SCALE)), joint="curve")

    def polygon(self, points: _Points, fill: float) -> None:
        self._pen.polygon(self._scaled(points), fill=int(fill))

    @staticmethod
    def _box(x: float, y: float, a: float, b: float) -> list[float]:
        return [(x - a) * _SCALE, (y - b) * _SCALE, (x + a) * _SCALE, (y + b) * _SCALE]

    @staticmethod
    def _scaled(points: _Points) -> _Points:
        return [(x * _SCALE, y * _SCALE) for x, y in points]


class _Face(NamedTuple):
    """Where the head and the eyes are, in pixels, and the two gray values that the features are drawn in."""

    cx: float
    cy: float
    rx: float
    eye_y: float
    eye_dx: float
    skin: float
    dark: float


def draw_face(emotion: str, rng: np.random.Generator) -> np.ndarray:
    """One face as uint8 of shape (48, 48).

    Every feature takes its random numbers from ``rng`` in the order of the calls below: another order gives other faces.
    """
    mean = EXPRESSIONS[emotion]
    e = Expression(*(m + s * z for m, s, z in zip(mean, SPREAD, rng.standard_normal(7), strict=True)))
    background, skin = rng.uniform(20, 120), rng.uniform(110, 215)
    dark = skin * rng.uniform(0.25, 0.5)
    canvas = _Canvas(background)
    face = _head(canvas, skin, dark, rng)
    for side in (-1, 1):
        _eye_and_brow(canvas, face, e, side, rng)
    _nose(canvas, face, e)
    _mouth(canvas, face, e, rng)
    _covers(canvas, face, rng)
    return _photograph(canvas.image, background, rng)


def _head(canvas: _Canvas, skin: float, dark: float, rng: np.random.Generator) -> _Face:
    cx, cy = 24 + rng.normal(0, 1.3), 24 + rng.normal(0, 1.3)
    rx, ry = rng.uniform(15, 19), rng.uniform(19, 23)
    canvas.ellipse(cx, cy - 4, rx + 1.5, ry, dark * rng.uniform(0.5, 1.2))  # hair behind the head
    canvas.ellipse(cx, cy + 1, rx, ry - 1, skin)
    eye_y, eye_dx = cy - 4 + rng.normal(0, 0.5), rx * rng.uniform(0.40, 0.47)
    return _Face(cx, cy, rx, eye_y, eye_dx, skin, dark)


def _eye_and_brow(canvas: _Canvas, face: _Face, e: Expression, side: int, rng: np.random.Generator) -> None:
    opening = max(0.35, e.eye_open)
    x, y = face.cx + side * face.eye_dx, face.eye_y
    canvas.ellipse(x, y, 3.3, opening, min(255, face.skin + 45))
    canvas.ellipse(x + rng.normal(0, 0.3), y, min(1.5, opening), min(1.5, opening), face.dark * 0.5)
    canvas.line([(x - 3.3, y - opening * 0.9), (x, y - opening), (x + 3.3, y - opening * 0.9)], 0.5, face.dark)
    brow = y - 4.2 - e.brow_lift
    canvas.line(
        [(x - side * 3.6, brow + 2.3 * e.brow_tilt), (x, brow - 0.4), (x + side * 3.6, brow - 1.4 * e.brow_tilt)],
        rng.uniform(0.8, 1.5),
        face.dark,
    )


def _nose(canvas: _Canvas, face: _Face, e: Expression) -> None:
    cx, cy = face.cx, face.cy
    canvas.line([(cx, face.eye_y + 1), (cx - 1.2, cy + 4), (cx + 1.2, cy + 4.3)], 0.6, face.skin * 0.75)
    for i in range(2):  # wrinkles beside the nose
        depth = max(0.0, e.nose_wrinkle) * (0.9 - 0.25 * i)
        for side in (-1, 1):
            y = cy + 0.5 + 2 * i
            canvas.line(
                [(cx + side * 1.5, y), (cx + side * 3.6, y - 1.2)], 0.7, face.skin * (1 - 0.5 * min(1.0, depth))
            )


def _mouth(canvas: _Canvas, face: _Face, e: Expression, rng: np.random.Generator) -> None:
    y, half = face.cy + 11 + rng.normal(0, 0.6), max(2.5, e.mouth_width)
    xs = np.linspace(-1, 1, 9)
    bend, opened = 3.4 * e.mouth_curve, max(0, e.mouth_open)
    upper = [(face.cx + half * t, y + bend * (0.5 - t * t) - opened * math.sqrt(1 - t * t)) for t in xs]
    lower = [(face.cx + half * t, y + bend * (0.5 - t * t) + opened * math.sqrt(1 - t * t)) for t in xs]
    canvas.polygon(upper + lower[::-1], face.dark * 0.6)
    canvas.line(upper, 0.8, face.dark)
    canvas.line(lower, 0.8, face.dark)


def _covers(canvas: _Canvas, face: _Face, rng: np.random.Generator) -> None:
    """Glasses on some faces, and a hand or a scarf over a part of some."""
    if rng.random() < 0.15:
        for side in (-1, 1):
            canvas.ring(face.cx + side * face.eye_dx, face.eye_y, 4.6, 4, face.dark)
    if rng.random() < 0.15:
        x, y = rng.uniform(4, 44), rng.uniform(26, 46)
        canvas.ellipse(x, y, rng.uniform(3, 7), rng.uniform(3, 7), rng.uniform(30, 220))


def _photograph(image: Image.Image, background: float, rng: np.random.Generator) -> np.ndarray:
    """Tilt, reduce and sometimes blur the drawing; then add uneven light, contrast and noise."""
    image = image.rotate(rng.normal(0, 7), resample=Image.Resampling.BILINEAR, fillcolor=int(background))
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    pixels = np.asarray(image, dtype=np.float64)
    gy, gx = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    light = rng.normal(0, 18) * gx + rng.normal(0, 14) * gy
    pixels = (pixels - 128) * rng.uniform(0.6, 1.1) + 128 + light + rng.normal(0, 12) + rng.normal(0, 9, pixels.shape)
    face: np.ndarray = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return face


def generate(total: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """``total`` faces of all classes, in FER-2013's proportions.

    Args:
        total: how many images.
        stream: 0 for training, 1 for validation: independent draws.

    Returns:
        images uint8 of shape (total, 48, 48, 1) and labels int64 of shape (total,), indices into :data:`CLASSES`.
    """
    images = np.empty((total, SIZE, SIZE, 1), dtype=np.uint8)
    labels = np.empty(total, dtype=np.int64)
    i = 0
    for label, (name, count) in enumerate(class_counts(total).items()):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, VERSION, stream, label])))
        for _ in range(count):
            images[i, :, :, 0] = draw_face(name, rng)
            labels[i] = label
            i += 1
    return images, labels
