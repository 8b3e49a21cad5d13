"""Addresses with a password: this process and the trackers' own know them whole, and nothing that is stored does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from raysweep._text import without_credentials
from raysweep.config.settings import Settings
from raysweep.config.tracking import TrackersSection
from raysweep.events import Note

_VARIABLE = "RAYSWEEP_TRACKER_ADDRESSES"  # of a tracker's process: JSON, address without credentials → whole
_known: dict[str, str] = {}


def keep(section: TrackersSection) -> Note | None:
    """Keep the addresses of a configuration for the trackers of this process.

    Returns:
        What the user should know where one has credentials.
    """
    uri = section.mlflow.uri if section.mlflow is not None else None
    if uri is None or (stored := without_credentials(uri)) == uri:
        return None
    _known[stored] = uri
    return Note(
        f"The credentials in trackers.mlflow.uri are used now and stored nowhere. `raysweep continue` needs them again, in "
        f"MLFLOW_TRACKING_URI, or in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for {stored}."
    )


def stored(settings: Settings) -> Settings:
    """The settings as they are stored. Workers get these: they track nothing, and Ray may show what they get."""
    section = settings.trackers
    if section.mlflow is None or section.mlflow.uri is None:
        return settings
    mlflow = section.mlflow.model_copy(update={"uri": without_credentials(section.mlflow.uri)})
    return settings.model_copy(update={"trackers": section.model_copy(update={"mlflow": mlflow})})


def environment() -> Mapping[str, str]:
    """The environment of a tracker's process."""
    return {**os.environ, _VARIABLE: json.dumps(_known)} if _known else os.environ


def whole(uri: str | None) -> str | None:
    """The address with its credentials, where this process knows them or MLFLOW_TRACKING_URI has them."""
    if uri is None:
        return None
    given = os.environ.get("MLFLOW_TRACKING_URI")
    addresses = {without_credentials(given): given} if given else {}
    handed: dict[str, str] = json.loads(os.environ.get(_VARIABLE) or "{}")
    return {**addresses, **handed, **_known}.get(uri, uri)
