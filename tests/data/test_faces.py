"""The built-in faces: FER-2013's imbalance, drawn the same every time, and not all alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.data import faces


@pytest.fixture(scope="module")
def train():
    return faces.generate(140, 0)


def test_the_proportions_are_fer_2013s():
    # Goodfellow et al. 2013: 28,709 training images, 436 of them disgust, 7,215 happy.
    assert faces.class_counts(28_709) == {
        "angry": 3995,
        "disgust": 436,
        "fear": 4097,
        "happy": 7215,
        "neutral": 4965,
        "sad": 4830,
        "surprise": 3171,
    }


@given(st.integers(0, 50_000))
def test_any_number_of_faces_keeps_the_proportions(total):
    counts = faces.class_counts(total)
    assert list(counts) == list(faces.CLASSES)
    assert sum(counts.values()) == total
    for name, fer in zip(faces.CLASSES, faces.FER_COUNTS, strict=True):
        assert abs(counts[name] - total * fer / 28_709) < 1


def test_the_shipped_set_has_every_class_in_both_parts():
    for total in (faces.TRAIN_IMAGES, faces.VAL_IMAGES):
        assert min(faces.class_counts(total).values()) >= 10
    train = faces.class_counts(faces.TRAIN_IMAGES)
    assert 15 < train["happy"] / train["disgust"] < 18  # 16.5 : 1


def test_images_and_labels_fit_each_other(train):
    images, labels = train
    assert (images.shape, images.dtype) == ((140, 48, 48, 1), np.uint8)
    assert labels.dtype == np.int64
    assert dict(zip(faces.CLASSES, np.bincount(labels, minlength=7).tolist(), strict=True)) == faces.class_counts(140)


def test_the_faces_are_the_same_every_time(train):
    np.random.seed(1)  # no global generator has a say
    images, labels = faces.generate(140, 0)
    assert np.array_equal(images, train[0])
    assert np.array_equal(labels, train[1])


def test_training_and_validation_share_no_face(train):
    val, _ = faces.generate(70, 1)
    seen = {image.tobytes() for image in train[0]}
    assert len(seen) == 140  # nor does any face come twice
    assert not seen & {image.tobytes() for image in val}


def test_more_faces_begin_with_the_same_ones(train):
    fewer, labels = faces.generate(70, 0)
    for c in range(7):
        of_class = fewer[labels == c]
        assert np.array_equal(of_class, train[0][train[1] == c][: len(of_class)])


@pytest.mark.parametrize("emotion", faces.CLASSES)
def test_a_face_is_a_picture(emotion):
    face = faces.draw_face(emotion, np.random.default_rng(0))
    assert (face.shape, face.dtype) == ((48, 48), np.uint8)
    assert face.std() > 10  # something is drawn
    assert 5 < face.mean() < 250


def test_the_emotion_is_in_the_drawing():
    # The same random numbers, another emotion: only the drawn features differ.
    drawn = {e: faces.draw_face(e, np.random.default_rng(3)).astype(int) for e in faces.CLASSES}
    for a in faces.CLASSES:
        for b in faces.CLASSES:
            assert a == b or np.abs(drawn[a] - drawn[b]).max() > 20
