"""How the images of a data set are kept for training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raysweep.config.types import Text

Cache = Annotated[
    Literal["auto", "pixels", "encoded"],
    Field(
        description="How images are kept for training. pixels: decoded once, as image_size needs them. encoded: as the bytes of their "
        "files, decoded whenever they are needed, which takes a fraction of the disk. auto: pixels, unless they fit neither memory nor "
        "the free space; what was chosen is recorded."
    ),
]
Large = Annotated[
    Literal["shrink", "draft", "crop", "full"],
    Field(
        description="What an encoded cache keeps of images with at least twice as many pixels as the network sees. shrink: a JPEG of "
        "what the network sees, made once (a PNG where the image is lossless). draft: their bytes, decoded at 1/2, 1/4 or 1/8 of their "
        "size. crop: as draft, and random_resized_crop takes its part of the image as it is stored. full: their bytes, decoded whole; the bits are then those of cache=pixels."
    ),
]
CacheDir = Annotated[
    Text | None,
    Field(description="Folder of the image caches. Default: RAYSWEEP_CACHE, else <root>/.raysweep/cache."),
]
