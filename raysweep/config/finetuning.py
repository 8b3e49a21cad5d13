"""The options of fine-tuning: what of a network is trained, how fast, and whether it is averaged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raysweep.config.types import Name

BACKBONE = "backbone"  # all but the last layer


def _patterns(value: Any) -> Any:
    """One pattern is a list of one; no pattern is none."""
    if isinstance(value, bool) or value in ("true", "false"):
        raise ValueError(
            "say what is frozen: backbone, or patterns of the names of layers; nothing after the = freezes nothing"
        )
    found = [value] if isinstance(value, str) else value
    if isinstance(found, (list, tuple)) and BACKBONE in found and len(found) > 1:
        raise ValueError("backbone is everything but the last layer; give it alone, or name layers by patterns")
    return found or None


Freeze = Annotated[list[Name] | None, BeforeValidator(_patterns)]

FREEZE: Any = Field(
    None,
    description="What is not trained and keeps its bits: backbone (all but the last layer), or patterns of the names of layers or "
    "parameters, such as [conv1, bn1, 'layer[12].*']. Frozen layers work as in evaluation: their batch normalisation keeps its "
    "statistics. Default: everything is trained.",
)
UNFREEZE: Any = Field(
    None,
    description="From this epoch on, counted with the parent's epochs, all of the network is trained. Default: what is frozen stays so.",
)
FEATURES: Any = Field(
    "auto",
    description="With freeze=backbone and images that are not changed at random: compute what the last layer gets from each image "
    "once, and train on that. auto: float32 where it is possible; float32, float16: it must be possible; off: not.",
)
HEAD_LR: Any = Field(None, description="Peak learning rate of the last layer. Default: learning_rate.")
LAYER_DECAY: Any = Field(
    None,
    description="Each layer learns so many times as fast as the one after it, a factor up to 1, such as 0.75; the last layer learns "
    "with learning_rate. Default: all layers learn alike.",
)
EMA: Any = Field(
    None,
    description="Validate and keep the moving average of the weights, with this decay per step, such as 0.999. Default: the weights "
    "themselves.",
)
ACCUMULATE: Any = Field(
    1,
    description="Compute the gradient of each batch in so many parts, one after the other, which takes less memory. batch_size stays "
    "what one step sees.",
)
