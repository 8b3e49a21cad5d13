"""Small pictures inside a page."""

import base64
import io

import pytest


def opened(uri):
    from PIL import Image

    kind, _, text = uri.partition(";base64,")
    assert kind == "data:image/webp"
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((96, 96, 3), 48, (48, 48)),
        ((96, 48, 3), 48, (24, 48)),  # the longer side counts; the shape is kept
        ((48, 48, 1), 48, (48, 48)),
        ((32, 32), 48, (32, 32)),  # a small image is not enlarged
        ((400, 1, 1), 48, (1, 48)),  # never 0 pixels wide
    ],
)
def test_a_thumbnail_has_its_size(shape, size, expected):
    import numpy as np

    from raysweep.report.thumbnails import data_uri

    assert opened(data_uri(np.full(shape, 120, dtype=np.uint8), size)).size == expected


def test_it_shows_the_picture():
    import numpy as np

    from raysweep.report.thumbnails import data_uri

    image = np.zeros((48, 48, 3), dtype=np.uint8)
    image[:24, :, 0], image[24:, :, 2] = 230, 230  # red above blue
    found = np.asarray(opened(data_uri(image, 48)).convert("RGB")).astype(int)
    assert found[8, 24, 0] > 180 > 80 > found[8, 24, 2]
    assert found[40, 24, 2] > 180 > 80 > found[40, 24, 0]
    image.flags.writeable = False  # as the cache gives it, and a view of every second column
    assert data_uri(image[:, ::2], 48) == data_uri(image[:, ::2].copy(), 48)


def test_it_is_small_and_always_the_same():
    import numpy as np

    from raysweep.report.thumbnails import data_uri

    y, x = np.mgrid[:48, :48]
    image = (120 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7)).astype(np.uint8)
    assert data_uri(image, 48) == data_uri(image[..., None], 48)
    assert len(data_uri(image, 48)) < 1500
