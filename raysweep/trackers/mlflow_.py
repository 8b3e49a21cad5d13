"""MLflow: one run per experiment, on a server or in an SQLite file.

The time of a point is computed from the history, so that a point that is sent twice (the answer was lost, a kill came
before it was noted) is the same row of MLflow's table, which it keeps once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.trackers.snapshot import Snapshot, text
from raysweep.trackers.state import TrackerState

TITLE = "MLflow"
METRICS_AT_ONCE = 1000  # MLflow's own limits
PARAMETERS_AT_ONCE = 100
_LONGEST = 6000  # characters of a parameter
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}
_PATIENCE = {  # a server that does not answer is asked again after the next epoch; MLflow itself would try for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Tracker:
    """Runs are found again by ``run_id`` and ``uri`` in ``tracker_mlflow.json``."""

    def __init__(self) -> None:
        for key, value in _PATIENCE.items():
            os.environ.setdefault(key, value)
        self.mlflow: Any = importlib.import_module("mlflow")
        self.entities: Any = importlib.import_module("mlflow.entities")
        self.clients: dict[str | None, Any] = {}
        self.seen: set[Path] = set()  # experiments whose run is known to be there

    def sync(self, story: Snapshot) -> None:
        """Bring the experiment's run up to date.

        Raises:
            Exception: whatever MLflow raises.
        """
        folder = story.experiment.folder
        memory = TrackerState(folder, "mlflow")
        if memory.current(story):
            return
        assert story.trackers.mlflow is not None
        client = self._client(memory.ids.get("uri") or _absolute(story.trackers.mlflow.uri))
        if memory.ids and folder not in self.seen and not self._is_there(client, memory.ids["run_id"]):
            memory.ids = {}
        if memory.ids and not memory.fits(story):  # a point cannot be taken back
            client.delete_run(memory.ids["run_id"])
            memory.ids = {}
        if not memory.ids:
            self._begin(client, story, memory)
        self.seen.add(folder)
        run = memory.ids["run_id"]
        points = [
            self.entities.Metric(name, value, int(1000 * (memory.started + point.offset)), point.epoch)
            for point in story.points[memory.rows :]
            for name, value in point.values.items()
        ]
        for some in _parts(points, METRICS_AT_ONCE):
            client.log_batch(run, metrics=some)
        status = _STATUS.get(story.status, "KILLED")  # interrupted or crashed
        if memory.status != story.status:
            client.update_run(run, status=status) if status == "RUNNING" else client.set_terminated(run, status)
        memory.given(story)

    def close(self) -> None:
        """Nothing is open."""

    def _client(self, uri: str | None) -> Any:
        if uri not in self.clients:
            self.clients[uri] = self.mlflow.MlflowClient(uri)
        return self.clients[uri]

    def _is_there(self, client: Any, run_id: str) -> bool:
        try:
            return client.get_run(run_id).info.lifecycle_stage == "active"
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _begin(self, client: Any, story: Snapshot, memory: TrackerState) -> None:
        assert story.trackers.mlflow is not None
        tags = {f"raysweep.{key}": value for key, value in story.tags.items()}
        tags |= {"mlflow.source.name": "raysweep", "raysweep.folder": story.experiment.address}
        description = story.config.setting("experiment", "description")
        if description:
            tags["mlflow.note.content"] = truncate(description, 4000)
        parent = _parents_run(story, client.tracking_uri)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(
            self._experiment(client, story.trackers.mlflow.experiment),
            start_time=int(1000 * story.started) or None,
            tags=tags,
            run_name=story.experiment.id,
        )
        memory.begin(story, run_id=run.info.run_id, uri=client.tracking_uri)
        parameters = [self.entities.Param(k, truncate(text(v), _LONGEST)) for k, v in story.parameters.items()]
        for some in _parts(parameters, PARAMETERS_AT_ONCE):
            client.log_batch(run.info.run_id, params=some)

    def _experiment(self, client: Any, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name)
            except self.mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise
            found = client.get_experiment_by_name(name)
        return found.experiment_id


def _parents_run(story: Snapshot, uri: str) -> str | None:
    """The run of the experiment that this one started from, where it is tracked in the same place."""
    parent = story.config.parent
    if parent is None:
        return None
    for folder in (Path(parent.file or "").parent, story.experiment.folder.parent / parent.experiment):
        ids = TrackerState(folder, "mlflow").ids
        if ids.get("uri") == uri and folder.name == parent.experiment:
            return ids.get("run_id")
    return None


def _absolute(uri: str | None) -> str | None:
    """An SQLite file's path from the root on: the experiment may be gone on with from another folder."""
    scheme, slashes, path = (uri or "").partition(":///")
    if scheme != "sqlite" or not path or path.startswith((":", "/")):
        return uri
    return f"{scheme}{slashes}{Path(path).resolve()}"


def _parts(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
