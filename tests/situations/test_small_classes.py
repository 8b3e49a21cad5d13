"""Small classes and classes without validation images are named, with how few there are (torchvision 8297, 4925)."""

from __future__ import annotations

from tests.situations.reading import plant


def test_few_validation_images_are_named_before_training(tmp_path):
    from raysweep.data import cache
    from tests.data.drawing import section

    tree = {"train/cat/": 12, "train/dog/": 12, "train/eel/": 5, "val/cat/": 12, "val/dog/": 2}
    found = cache.load(section(plant(tmp_path / "d", tree)), tmp_path / "cache").reading
    assert found.validation == {"cat": 12, "dog": 2, "eel": 0}
    assert found.lines() == [
        "No validation images: eel. So nothing will be known of it: no part in the means over all classes, such as macro-F1 or mAP, and no "
        "verdict.",
        "Few validation images: dog (2). One image is up to 50 points of its recall, so small differences of these "
        "mean nothing.",
    ]
