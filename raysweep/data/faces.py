"""The built-in data: 48×48 grayscale faces drawn by the program, seven emotions, imbalanced as FER-2013 is.

Each emotion is a distribution over a few drawn features (brows, eyes, mouth). Fear and surprise overlap, sad and
neutral overlap, and disgust is rare: a classifier makes the mistakes it makes on real faces, so that a change of the
ratio has something to change.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 48
CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# FER-2013's training counts: (Goodfellow et al. 2013, https://arxiv.org/abs/1307.0414)
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
# Spread of each feature between faces of one emotion: wide enough to mix the neighbours.
SPREAD = Expression(0.27, 0.7, 0.5, 0.27, 0.75, 0.8, 0.2)
_SCALE = 4  # drawn larger, then reduced, which antialiases


def class_counts(total: int) -> dict[str, int]:
    """``total`` images split among the classes in FER-2013's proportions (largest remainder)."""
    from raysweep.weights import SamplingWeights

    even = SamplingWeights.complete({}, CLASSES)
    return even.quotas(dict(zip(CLASSES, FER_COUNTS, strict=True)), total)


def draw_face(emotion: str, rng: np.random.Generator) -> np.ndarray:
    """One face as uint8 of shape (48, 48)."""
    mean = EXPRESSIONS[emotion]
    e = Expression(*(m + s * z for m, s, z in zip(mean, SPREAD, rng.standard_normal(7), strict=True)))
    s = _SCALE
    background, skin = rng.uniform(20, 120), rng.uniform(110, 215)
    dark = skin * rng.uniform(0.25, 0.5)
    image = Image.new("L", (SIZE * s, SIZE * s), int(background))
    pen = ImageDraw.Draw(image)
    cx, cy = 24 + rng.normal(0, 1.3), 24 + rng.normal(0, 1.3)
    rx, ry = rng.uniform(15, 19), rng.uniform(19, 23)

    def ellipse(x: float, y: float, a: float, b: float, fill: float) -> None:
        pen.ellipse([(x - a) * s, (y - b) * s, (x + a) * s, (y + b) * s], fill=int(max(0, min(255, fill))))

    def line(points: list[tuple[float, float]], width: float, fill: float) -> None:
        pen.line([(x * s, y * s) for x, y in points], fill=int(fill), width=max(1, int(width * s)), joint="curve")

    ellipse(cx, cy - 4, rx + 1.5, ry, dark * rng.uniform(0.5, 1.2))  # hair behind the head
    ellipse(cx, cy + 1, rx, ry - 1, skin)
    eye_y, eye_dx = cy - 4 + rng.normal(0, 0.5), rx * rng.uniform(0.40, 0.47)
    opening = max(0.35, e.eye_open)
    for side in (-1, 1):
        x = cx + side * eye_dx
        ellipse(x, eye_y, 3.3, opening, min(255, skin + 45))
        ellipse(x + rng.normal(0, 0.3), eye_y, min(1.5, opening), min(1.5, opening), dark * 0.5)
        line([(x - 3.3, eye_y - opening * 0.9), (x, eye_y - opening), (x + 3.3, eye_y - opening * 0.9)], 0.5, dark)
        brow = eye_y - 4.2 - e.brow_lift
        line(
            [(x - side * 3.6, brow + 2.3 * e.brow_tilt), (x, brow - 0.4), (x + side * 3.6, brow - 1.4 * e.brow_tilt)],
            rng.uniform(0.8, 1.5),
            dark,
        )
    line([(cx, eye_y + 1), (cx - 1.2, cy + 4), (cx + 1.2, cy + 4.3)], 0.6, skin * 0.75)
    for i in range(2):  # wrinkles beside the nose
        depth = max(0.0, e.nose_wrinkle) * (0.9 - 0.25 * i)
        for side in (-1, 1):
            y = cy + 0.5 + 2 * i
            line([(cx + side * 1.5, y), (cx + side * 3.6, y - 1.2)], 0.7, skin * (1 - 0.5 * min(1.0, depth)))
    mouth_y, half = cy + 11 + rng.normal(0, 0.6), max(2.5, e.mouth_width)
    xs = np.linspace(-1, 1, 9)
    bend = 3.4 * e.mouth_curve
    upper = [(cx + half * t, mouth_y + bend * (0.5 - t * t) - max(0, e.mouth_open) * math.sqrt(1 - t * t)) for t in xs]
    lower = [(cx + half * t, mouth_y + bend * (0.5 - t * t) + max(0, e.mouth_open) * math.sqrt(1 - t * t)) for t in xs]
    pen.polygon([(x * s, y * s) for x, y in upper + lower[::-1]], fill=int(dark * 0.6))
    line(upper, 0.8, dark)
    line(lower, 0.8, dark)
    if rng.random() < 0.15:  # glasses
        for side in (-1, 1):
            x = cx + side * eye_dx
            pen.ellipse([(x - 4.6) * s, (eye_y - 4) * s, (x + 4.6) * s, (eye_y + 4) * s], outline=int(dark), width=s)
    if rng.random() < 0.15:  # a hand or scarf over some of the face
        x, y = rng.uniform(4, 44), rng.uniform(26, 46)
        ellipse(x, y, rng.uniform(3, 7), rng.uniform(3, 7), rng.uniform(30, 220))
    image = image.rotate(rng.normal(0, 7), resample=Image.Resampling.BILINEAR, fillcolor=int(background))
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    pixels = np.asarray(image, dtype=np.float64)
    gy, gx = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    light = rng.normal(0, 18) * gx + rng.normal(0, 14) * gy
    pixels = (pixels - 128) * rng.uniform(0.6, 1.1) + 128 + light + rng.normal(0, 12) + rng.normal(0, 9, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def generate(total: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """``total`` faces.

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
