"""Settle how training images are augmented, now that the classes and the size of the images are known."""

from __future__ import annotations

from collections.abc import Sequence

from raysweep._text import counted
from raysweep.config.augmentation import TRIVIAL_PIXELS, AugmentSection
from raysweep.config.settings import Settings
from raysweep.data import augment
from raysweep.errors import ConfigError
from raysweep.events import Note
from raysweep.weights import check_classes, spelled


def settled(
    settings: Settings, classes: Sequence[str], shape: tuple[int, int, int], draws: int
) -> tuple[Settings, tuple[Note, ...]]:
    """The settings with ``flip`` decided where the user leaves it open and each class as the data spell it, and what is to be said.

    Args:
        shape: of the images, (height, width, channels).
        draws: images per epoch.

    Raises:
        ConfigError: a class is unknown, or a shift is larger than the images.
    """
    section = settings.training.augment
    told = []
    if section.flip is None:
        why = augment.unlike_its_mirror(classes)
        section = section.model_copy(update={"flip": why is None})
        told += [f"Images are not mirrored, because {why}; training.augment.flip=true mirrors them."] if why else []
    if section.classes:
        of_class = spelled(section.classes, classes)
        check_classes(of_class, classes, "training.augment.classes names")
        if len(of_class) < len(section.classes):
            raise ConfigError("training.augment.classes names a class twice. Keep one of them.")
        section = section.model_copy(update={"classes": dict(of_class)})
    most = max(one.crop_padding for one in section.recipes)
    if most >= min(shape[:2]):
        raise ConfigError(
            f"training.augment.crop_padding is {most}, but the images have {min(shape[:2])} pixels a side. Choose less."
        )
    told += [*_of_sizes(section, shape), *_of_epoch(section, draws), *_of_views(section, settings.data.views)]
    training = settings.training.model_copy(update={"augment": section})
    return settings.model_copy(update={"training": training}), tuple(map(Note, told))


def _of_sizes(section: AugmentSection, shape: tuple[int, int, int]) -> list[str]:
    """What an option does not do to images of this form."""
    told, recipes = [], section.recipes
    jitters = [one.color_jitter for one in recipes if one.color_jitter is not None]
    if shape[2] == 1 and any(one.saturation or one.hue for one in jitters):
        told.append("The images are gray: training.augment.color_jitter changes their brightness and contrast only.")
    if min(shape[:2]) <= TRIVIAL_PIXELS and any(one.trivial_augment is not None for one in recipes):
        told.append(
            f"training.augment.trivial_augment moves images by up to {TRIVIAL_PIXELS} pixels, as published, and these have "
            f"{min(shape[:2])} a side: some are moved out of the picture. rand_augment moves by parts of the side."
        )
    return told


def _of_views(section: AugmentSection, views: int | None) -> list[str]:
    """What fixed views are.

    Raises:
        ConfigError: all of them would be the same.
    """
    if views is None:
        return []
    if not any(one.crop_padding or one.flip or one.beyond_moves for one in section.recipes):
        raise ConfigError(
            f"data.views is {views}, but training.augment changes no image, so all views of an image would be the same. Omit data.views "
            "(in a child: data.views= with nothing after it), or choose an augmentation."
        )
    return [
        f"Each training image has {counted(views, 'fixed view')} (data.views), which take turns; branches with other seeds see the same ones."
    ]


def _of_epoch(section: AugmentSection, draws: int) -> list[str]:
    """What mixing and repeating do to the images of an epoch."""
    told = []
    if section.mixes:
        ways = " or ".join(name for name in ("mixup", "cutmix") if getattr(section, name) is not None)
        told.append(
            f"Images are mixed by {ways}: each keeps at least half of itself, and each is once the other half. The counts of an epoch and the "
            "training accuracy are those of the larger parts."
        )
    if section.repeats > 1:
        told.append(
            f"Each image is shown {section.repeats} times in a row: an epoch of {counted(draws, 'image')} has "
            f"{draws // section.repeats:,} draws."
        )
    return told
