"""The options of the trackers that mirror experiments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_serializer

from raysweep._text import without_credentials
from raysweep.config.types import Section, Text


class MlflowSection(Section):
    uri: Text | None = Field(
        None,
        repr=False,
        description="Address of an MLflow server, or sqlite:///FILE. Default: MLFLOW_TRACKING_URI. Put passwords into MLflow's "
        "environment variables: one that stands here is used, but not stored.",
    )
    experiment: Text = Field(
        "raysweep", min_length=1, description="MLflow experiment; each raysweep experiment is a run in it."
    )

    @field_serializer("uri")
    def _stored(self, value: str | None) -> str | None:
        """Whatever is written to a file, a checkpoint or the terminal has no credentials."""
        return None if value is None else without_credentials(value)


class WandbSection(Section):
    project: Text = Field("raysweep", min_length=1, description="W&B project.")
    entity: Text | None = Field(None, description="W&B user or team. Default: your own.")
    mode: Literal["online", "offline"] = Field(
        "online", description="offline: write to this machine only. WANDB_MODE overrides this."
    )


class TrackioSection(Section):
    project: Text = Field(
        "raysweep",
        min_length=1,
        description="trackio project. TRACKIO_DIR and TRACKIO_SPACE_ID choose where trackio stores it.",
    )


class TrackersSection(Section):
    tensorboard: bool = Field(True, description="Write TensorBoard events into the experiment's folder.")
    mlflow: MlflowSection | None = Field(
        None, description="MLflow; {} uses the defaults. Needs pip install 'raysweep[mlflow]'."
    )
    wandb: WandbSection | None = Field(
        None, description="Weights & Biases; {} uses the defaults. Needs pip install 'raysweep[wandb]'."
    )
    trackio: TrackioSection | None = Field(
        None, description="trackio; {} uses the defaults. Needs pip install 'raysweep[trackio]'."
    )
