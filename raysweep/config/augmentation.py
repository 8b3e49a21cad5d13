"""Every option of ``training.augment``: what is changed at random in the training images, for all classes or for some.

The names are those of torchvision's transforms. Each section may be given in a short form: ``true``, or its main number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raysweep._text import Nested
from raysweep.config.own import WordOrCode
from raysweep.config.types import Float, Int, Name, Section, Text

Probability = Annotated[Float, Field(ge=0, le=1)]
_Above = Annotated[Float, Field(gt=0, le=100)]
_Share = Annotated[Float, Field(gt=0, le=1)]
Pair = Annotated[list[_Above], Field(min_length=2, max_length=2)]
_P = "Part of the images that are changed; 0: none."
# Losses that take no soft targets, and why. All others are linear in the target: the loss of a mixture is the mixture of the losses.
HARD_TARGETS = {
    "focal": "it weighs an image by (1 - p)^gamma, where p is the probability of the image's class, and a mixed image has two: the best answer "
    "to 60 % of one and 40 % of the other would not be 60 % and 40 %",
    "ldam": "it takes a margin from the logit of the image's class, and a mixed image has two classes, whose margins would work against each "
    "other",
}
TRIVIAL_PIXELS = 32  # by which TrivialAugment moves at most, whatever the size of the images, as published
_WORDS = (
    "random_resized_crop",
    "affine",
    "rand_augment",
    "trivial_augment",
    "color_jitter",
    "random_erasing",
    "mixup",
    "cutmix",
)
BINS = 31  # steps of the magnitude, as published for both policies

Views = Annotated[Int, Field(ge=1, le=1000)] | None
VIEWS: Any = Field(
    None,
    description="Show each training image in so many fixed ways, in turn: what training.augment changes is drawn once for each, by "
    "split_seed. With model.freeze=backbone the features of all views are computed once. Default: changed anew whenever it is shown.",
)


def _rising(value: list[Any]) -> list[Any]:
    if value[0] > value[1]:
        raise ValueError(f"the smaller number comes first: [{value[1]:g}, {value[0]:g}]")
    return value


def written_out(value: str) -> Nested:
    """``training.augment`` given as one word: the user's code or nothing instead of all that is on by default, or one of the sections."""
    if value in _WORDS:
        return {value: True}
    own = {} if value == "none" else {"own": value}
    return {**own, "crop_padding": 0, "flip": False}


def _short(*main: str, usual: float | None = None) -> Callable[[Any], Any]:
    """Writes the short forms of a section out: ``true``, ``false``, and a number for its main options. No alpha means no mixing.

    Args:
        usual: what ``true`` means for the main options, where that is not their default.
    """

    def written(value: Any) -> Any:
        if isinstance(value, bool):
            return {"p": 0} if not value else {} if usual is None else dict.fromkeys(main, usual)
        number = isinstance(value, (int, float)) or (isinstance(value, str) and _is_number(value))
        if number and main == ("alpha",) and float(value) == 0:
            return {"p": 0}
        return dict.fromkeys(main, value) if main and number else value

    return written


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class RandomResizedCrop(Section):
    p: Probability = Field(1.0, description=_P)
    scale: Annotated[list[_Share], Field(min_length=2, max_length=2)] = Field(
        [0.08, 1.0], description="The part of the image's area that is kept, drawn evenly between the two."
    )
    ratio: Pair = Field(
        [0.75, 4 / 3], description="Width through height of the part, drawn evenly in its logarithm between the two."
    )

    _ordered = field_validator("scale", "ratio")(_rising)


class Affine(Section):
    p: Probability = Field(1.0, description=_P)
    degrees: Annotated[Float, Field(ge=0, le=180)] = Field(10.0, description="Turned by up to this angle, either way.")
    translate: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.0, description="Moved by up to this part of the width, and of the height."
    )
    scale: Pair = Field([1.0, 1.0], description="Made larger by a factor between the two.")
    shear: Annotated[Float, Field(ge=0, le=80)] = Field(
        0.0, description="Sheared along the width by up to this angle in degrees, either way."
    )

    _ordered = field_validator("scale")(_rising)


class ColorJitter(Section):
    p: Probability = Field(1.0, description=_P)
    brightness: Annotated[Float, Field(ge=0, le=1)] = Field(0.0, description="Multiplied by 1 ± up to this number.")
    contrast: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.0, description="The distance from the image's mean gray is multiplied by 1 ± up to this number."
    )
    saturation: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.0, description="The distance from gray is multiplied by 1 ± up to this number."
    )
    hue: Annotated[Float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Colours are turned by up to this part of their circle, either way."
    )


class RandAugment(Section):
    p: Probability = Field(1.0, description=_P)
    num_ops: Annotated[Int, Field(ge=1, le=14)] = Field(2, description="Changes of each image, one after another.")
    magnitude: Annotated[Int, Field(ge=0, lt=BINS)] = Field(9, description=f"Their strength, from 0 to {BINS - 1}.")


class TrivialAugment(Section):
    p: Probability = Field(1.0, description=_P)


class RandomErasing(Section):
    p: Probability = Field(0.5, description=_P)
    scale: Annotated[list[_Share], Field(min_length=2, max_length=2)] = Field(
        [0.02, 0.33], description="The part of the image's area that is erased, drawn evenly between the two."
    )
    ratio: Pair = Field(
        [0.3, 3.3], description="Width through height of the part, drawn evenly in its logarithm between the two."
    )
    value: Literal["mean", "random", "black", "white"] = Field(
        "mean", description="What it becomes: the mean colour of the training images, noise, black or white."
    )

    _ordered = field_validator("scale", "ratio")(_rising)


class Mixup(Section):
    p: Probability = Field(1.0, description="Part of the images that are mixed.")
    alpha: _Above = Field(0.2, description="The shares of the two images are drawn from Beta(alpha, alpha).")


class Cutmix(Section):
    p: Probability = Field(1.0, description="Part of the images that are mixed.")
    alpha: _Above = Field(1.0, description="The area that comes from the other image is drawn from Beta(alpha, alpha).")


# A section, or its short form: true, false, or a number for its main option.
_Crop = Annotated[
    RandomResizedCrop | None, BeforeValidator(_short(), json_schema_input_type=RandomResizedCrop | bool | None)
]
_Affine = Annotated[
    Affine | None, BeforeValidator(_short("degrees"), json_schema_input_type=Affine | bool | float | None)
]
_Jitter = Annotated[
    ColorJitter | None,
    BeforeValidator(
        _short("brightness", "contrast", "saturation", usual=0.4),
        json_schema_input_type=ColorJitter | bool | float | None,
    ),
]
_Rand = Annotated[
    RandAugment | None, BeforeValidator(_short("magnitude"), json_schema_input_type=RandAugment | bool | int | None)
]
_Trivial = Annotated[
    TrivialAugment | None, BeforeValidator(_short(), json_schema_input_type=TrivialAugment | bool | None)
]
_Erasing = Annotated[
    RandomErasing | None, BeforeValidator(_short("p"), json_schema_input_type=RandomErasing | bool | float | None)
]
_Mixup = Annotated[Mixup | None, BeforeValidator(_short("alpha"), json_schema_input_type=Mixup | bool | float | None)]
_Cutmix = Annotated[
    Cutmix | None, BeforeValidator(_short("alpha"), json_schema_input_type=Cutmix | bool | float | None)
]


@dataclass(frozen=True)
class Recipe:
    """What is done to the images of one class. A section that changes no image is None."""

    crop_padding: int
    flip: bool | None
    random_resized_crop: RandomResizedCrop | None
    affine: Affine | None
    rand_augment: RandAugment | None
    trivial_augment: TrivialAugment | None
    color_jitter: ColorJitter | None
    random_erasing: RandomErasing | None

    @property
    def beyond_moves(self) -> bool:
        """Whether it does more than shift and mirror."""
        return any(getattr(self, name) is not None for name in _SECTIONS)


_SECTIONS = tuple(one.name for one in fields(Recipe))[2:]


class ImageAugment(Section):
    """What is done to each image by itself. None: not set."""

    random_resized_crop: _Crop = Field(
        None,
        description="Keep a random part and scale it to the image's size. true, or {scale: [0.08, 1], ratio: [0.75, 1.33]}.",
    )
    affine: _Affine = Field(
        None,
        description="Turn, move, scale and shear: {degrees: 10, translate: 0.1, scale: [0.9, 1.1], shear: 5}, or the degrees.",
    )
    color_jitter: _Jitter = Field(
        None,
        description="Change brightness, contrast, saturation and hue in a random order: {brightness: 0.4, contrast: 0.4, saturation: 0.4, "
        "hue: 0.1}, or one number for the first three (true: 0.4).",
    )
    rand_augment: _Rand = Field(None, description="RandAugment: {num_ops: 2, magnitude: 9}, or the magnitude.")
    trivial_augment: _Trivial = Field(None, description="true: TrivialAugment (wide): one change, of any strength.")
    random_erasing: _Erasing = Field(
        None, description="Erase a random part: {p: 0.5, scale: [0.02, 0.33], ratio: [0.3, 3.3], value: mean}, or p."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_shift_of_a_random_crop(cls, values: Any) -> Any:
        """A random part of the image is shifted already."""
        if isinstance(values, dict) and values.get("random_resized_crop") not in (None, False):
            return {"crop_padding": 0, **values}
        return values


class ClassAugment(ImageAugment):
    """What is done to the images of one class instead of what is done to all."""

    crop_padding: Annotated[Int, Field(ge=0, le=128)] | None = Field(None, description="Default: as for all classes.")
    flip: bool | None = Field(None, description="Default: as for all classes.")


class AugmentSection(ImageAugment):
    crop_padding: Annotated[Int, Field(ge=0, le=128)] = Field(
        4,
        description="Shift images at random by up to this many pixels; 0: do not shift. Default: 4; 0 with random_resized_crop.",
    )
    flip: bool | None = Field(
        None,
        description="Mirror each image left to right with probability 0.5. Default: true; false where the classes are numbers or "
        "letters, or name left and right.",
    )
    mixup: _Mixup = Field(
        None, description="Blend each image and its target with another one's: {alpha: 0.2}, or alpha."
    )
    cutmix: _Cutmix = Field(
        None,
        description="Put a part of another image into each, and share the target by area: {alpha: 1}, or alpha. With mixup, one of the two.",
    )
    repeats: Annotated[Int, Field(ge=1, le=100)] = Field(
        1,
        description="Show each image so many times in a row, each time changed otherwise; an epoch has as many images as before.",
    )
    classes: dict[Name, ClassAugment] = Field(
        default_factory=dict,
        description="Other augmentation for a class: {disgust: {affine: 15, random_erasing: 0.5}}. What is not set there is as for all; "
        "false switches it off.",
    )
    own: Annotated[Text, WordOrCode()] | None = Field(
        None,
        description="Your own, after these and before mixup and cutmix: python:MODULE:NAME, a function of a batch of images and, if it "
        "takes it, a generator. training.augment=python:MODULE:NAME takes it instead of these.",
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _as_for_all(cls, value: Any) -> Any:
        """A class of null is as all others: what a parent does to it can be taken back."""
        return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value

    @field_validator(*_SECTIONS, "mixup", "cutmix")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """What changes no image is as if it were not set: a child that switches off what its parent has not changes nothing."""
        return None if value is None or value.p == 0 else value

    def of_class(self, name: str) -> Recipe:
        """What is done to the images of a class."""
        found = {one.name: getattr(self, one.name) for one in fields(Recipe)}
        if (own := self.classes.get(name)) is not None:
            found |= {key: value for key in found if (value := getattr(own, key)) is not None}
        return Recipe(**found | {key: None for key in _SECTIONS if found[key] is not None and found[key].p == 0})

    @property
    def recipes(self) -> list[Recipe]:
        """That of most classes, and those of the classes that have one of their own."""
        return [self.of_class(name) for name in ("", *self.classes)]

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that their targets are soft."""
        return self.mixup is not None or self.cutmix is not None

    def check_loss(self, kind: str) -> None:
        """Raises ValueError if images are mixed for a loss that takes no soft targets."""
        why = HARD_TARGETS.get(kind)
        if why is not None and self.mixes:
            raise ValueError(
                f"training.augment.mixup and cutmix make soft targets, which loss.kind: {kind} does not take: {why}. Take another loss "
                "(cross_entropy, class_weights, balanced_softmax, logit_adjusted), or remove them"
            )

    def check_views(self, views: int | None) -> None:
        """Raises ValueError if the user's own augmentation should draw fixed views."""
        if views is not None and self.own is not None:
            raise ValueError(
                "data.views draws each view of an image by itself, and your training.augment.own changes a batch at once. Remove one of them"
            )

    @property
    def changes(self) -> bool:
        """Whether a training image may be shown otherwise than it is."""
        of_images = any(one.crop_padding or one.flip is not False or one.beyond_moves for one in self.recipes)
        return of_images or self.mixes or self.own is not None
