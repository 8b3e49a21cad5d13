"""MLflow: one run per experiment, on a server or in an SQLite file.

The time of a point is computed from the hisnapshot. So a point that is sent twice, because the answer was lost or the process
was killed before it recorded the answer, is the same row of MLflow's table, which MLflow keeps once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raysweep._text import truncate, without_credentials
from raysweep.config.foreign import Ask
from raysweep.errors import UntrustedError
from raysweep.store import trust
from raysweep.store.trust import NOBODY, Origin
from raysweep.trackers import credentials
from raysweep.trackers.snapshot import Snapshot, text
from raysweep.trackers.state import TrackerState

TITLE = "MLflow"
METRICS_AT_ONCE = 1000  # MLflow's own limits of one request
PARAMETERS_AT_ONCE = 100
_LONGEST = 6000  # characters of a parameter
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}
_PATIENCE = {  # sync is called again after the next epoch; by default MLflow would retry for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Tracker:
    """``tracker_mlflow.json`` names the run of an experiment: its ``run_id``, and the ``uri`` of the server or database."""

    def __init__(self) -> None:
        for key, value in _PATIENCE.items():
            os.environ.setdefault(key, value)
        self.mlflow: Any = importlib.import_module("mlflow")
        self.entities: Any = importlib.import_module("mlflow.entities")
        self.clients: dict[str | None, Any] = {}  # URI → client; None: MLflow's own default
        self.known: set[Path] = set()  # folders of experiments whose run exists in MLflow

    def sync(self, snapshot: Snapshot) -> None:
        """Bring the experiment's run up to date.

        Raises:
            Exception: any error of MLflow.
        """
        state = TrackerState(snapshot.experiment.folder, "mlflow")
        if state.has_all(snapshot):
            return
        assert snapshot.trackers.mlflow is not None
        client = self._client(self._place(snapshot, state))
        run = self._run(client, snapshot, state)
        for batch in _batches(self._metrics(snapshot, state), METRICS_AT_ONCE):
            client.log_batch(run, metrics=batch)
        status = _STATUS.get(snapshot.status, "KILLED")  # interrupted or crashed
        if state.status != snapshot.status:
            client.update_run(run, status=status) if status == "RUNNING" else client.set_terminated(run, status)
        state.complete(snapshot)

    def close(self) -> None:
        """Nothing is open."""

    def _place(self, snapshot: Snapshot, state: TrackerState) -> str | None:
        """The server or database that has the experiment's run, or will have it, without credentials; None: MLflow's default.

        Raises:
            UntrustedError: the folder names one that neither the configuration nor this machine's record knows.
        """
        assert snapshot.trackers.mlflow is not None
        told, asked = state.ids.get("uri"), _stored(_absolute(snapshot.trackers.mlflow.uri))
        if told is None or told in (asked, _stored(self.mlflow.get_tracking_uri())):
            return told or asked
        experiment = snapshot.experiment
        origin = Origin(state.path, experiment.folder, experiment.root, (experiment.id,))
        if not trust.known(NOBODY, origin, [_ask(told)]):
            raise UntrustedError(
                f"there is no record that you sent {experiment.id} to {truncate(told, 100)}. If you did, set MLFLOW_TRACKING_URI to it"
            )
        return told

    def _client(self, uri: str | None) -> Any:
        if uri not in self.clients:
            self.clients[uri] = self.mlflow.MlflowClient(credentials.whole(uri))
        return self.clients[uri]

    def _run(self, client: Any, snapshot: Snapshot, state: TrackerState) -> str:
        """The id of the experiment's run. A new run is created if there is none, if somebody deleted it, or if it has epochs
        that were trained again since: MLflow cannot remove a point."""
        folder = snapshot.experiment.folder
        if state.ids and folder not in self.known and not self._exists(client, state.ids["run_id"]):
            state.ids = {}
        if state.ids and not state.has_beginning(snapshot):
            client.delete_run(state.ids["run_id"])
            state.ids = {}
        if not state.ids:
            self._begin(client, snapshot, state)
        self.known.add(folder)
        return state.ids["run_id"]

    def _metrics(self, snapshot: Snapshot, state: TrackerState) -> list[Any]:
        """The points that MLflow does not have yet."""
        return [
            self.entities.Metric(name, value, int(1000 * (state.started + point.offset)), point.epoch)
            for point in snapshot.points[state.rows :]
            for name, value in point.values.items()
        ]

    def _exists(self, client: Any, run_id: str) -> bool:
        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _begin(self, client: Any, snapshot: Snapshot, state: TrackerState) -> None:
        """Create a run with its tags and parameters, without any point."""
        assert snapshot.trackers.mlflow is not None
        tags = {f"raysweep.{key}": value for key, value in snapshot.tags.items()}
        tags |= {"mlflow.source.name": "raysweep", "raysweep.folder": snapshot.experiment.address}
        description = snapshot.config.setting("experiment", "description")
        if description:
            tags["mlflow.note.content"] = truncate(description, 4000)
        parent = _parent_run(snapshot, without_credentials(client.tracking_uri))
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(
            self._experiment(client, snapshot.trackers.mlflow.experiment),
            start_time=int(1000 * snapshot.started) or None,
            tags=tags,
            run_name=snapshot.experiment.id,
        )
        uri = without_credentials(client.tracking_uri)
        state.begin(snapshot, run_id=run.info.run_id, uri=uri)
        trust.remember(snapshot.experiment.id, [_ask(uri)])
        parameters = [self.entities.Param(k, truncate(text(v), _LONGEST)) for k, v in snapshot.parameters.items()]
        for batch in _batches(parameters, PARAMETERS_AT_ONCE):
            client.log_batch(run.info.run_id, params=batch)

    def _experiment(self, client: Any, name: str) -> str:
        """The id of MLflow's experiment of this name, which is created if there is none."""
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name))
            except self.mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it first
                    raise
            found = client.get_experiment_by_name(name)
        return str(found.experiment_id)


def _parent_run(snapshot: Snapshot, uri: str) -> str | None:
    """The id of the parent experiment's run, if the parent is tracked at the same URI."""
    parent = snapshot.config.parent
    if parent is None:
        return None
    for folder in (Path(parent.file or "").parent, snapshot.experiment.folder.parent / parent.experiment):
        ids = TrackerState(folder, "mlflow").ids
        if ids.get("uri") == uri and folder.name == parent.experiment:
            return ids.get("run_id")
    return None


def _ask(uri: str) -> Ask:
    return Ask("tracker_mlflow.json", uri, f"send its results to {truncate(uri, 200)}")


def _stored(uri: str | None) -> str | None:
    return None if uri is None else without_credentials(uri)


def _absolute(uri: str | None) -> str | None:
    """The URI with the path of an SQLite file made absolute, because the experiment may be continued from another folder."""
    scheme, slashes, path = (uri or "").partition(":///")
    if scheme != "sqlite" or not path or path.startswith((":", "/")):
        return uri
    return f"{scheme}{slashes}{Path(path).resolve()}"


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
