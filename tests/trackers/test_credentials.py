"""A password in a tracker's address: the tracker gets it, and no file, checkpoint, report or message has it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from raysweep._text import hide_credentials, without_credentials

SECRET = "hunter2"
WHOLE = f"https://me:{SECRET}@mlflow.example:5000/x"
STORED = "https://mlflow.example:5000/x"


@pytest.mark.parametrize(
    ("address", "stored"),
    [
        (WHOLE, STORED),
        (f"https://{SECRET}@host", "https://host"),
        (f"https://me:a@{SECRET}@host/x", "https://host/x"),
        (f"https://me:a/{SECRET}@host:5000/x", "https://host:5000/x"),
        (f"https://me:5/{SECRET}@host", "https://me:5/hunter2@host"),  # a host with a port, and a path with an @
        (f"https://host/x?api_token={SECRET}&y=1#z", "https://host/x?y=1#z"),
        (f"postgresql+psycopg2://me:{SECRET}@db/runs", "postgresql+psycopg2://db/runs"),
        (f"mysql://db/runs?user=me&password={SECRET}", "mysql://db/runs"),
        ("https://host:5000/@org/x", "https://host:5000/@org/x"),
        ("sqlite:///runs.db", "sqlite:///runs.db"),
        ("file:///a/b@5", "file:///a/b@5"),
        ("databricks", "databricks"),
        ("", ""),
    ],
)
def test_an_address_without_its_credentials(address, stored):
    assert without_credentials(address) == stored
    assert without_credentials(stored) == stored


def test_addresses_in_messages():
    text = f"cannot reach '{WHOLE}', or https://x/?token={SECRET} and postgresql://a:b{SECRET}@c/d; see base@5, s3://bucket/e@3"
    assert hide_credentials(text) == (
        "cannot reach 'https://…@mlflow.example:5000/x', or https://x/?token=… and postgresql://…@c/d; see base@5, s3://bucket/e@3"
    )
    assert hide_credentials("base@5: a?key=b") == "base@5: a?key=b"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of the processes that trackers would have had."""
    from raysweep.trackers import credentials, dispatch

    found: list[dict[str, str]] = []
    monkeypatch.setattr(credentials, "_known", {})

    class Process:
        def __init__(self, name: str) -> None:
            found.append(dict(credentials.environment()))
            self.asked: dict[str, int] = {}
            self.answers: list[Any] = []
            self.running = False
            self.process = type("Ended", (), {"returncode": 0})

        def ask(self, folder: str) -> None:
            pass

        def send(self) -> bool:
            return True

        end = send

        def kill(self) -> None:
            pass

    monkeypatch.setattr(dispatch, "Process", Process)
    return found


def holding(folder: Path) -> list[str]:
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()
    )


def test_nothing_that_is_stored_or_shown_has_it(quick_run, processes, tmp_path, capsys, monkeypatch):
    from raysweep.cli.main import main
    from raysweep.trackers import base, credentials

    monkeypatch.setattr(base, "check", lambda section: None)
    made = quick_run(trackers={"mlflow": {"uri": WHOLE}}, training={"epochs": 1})
    (environment,) = processes  # the tracker's process gets it
    monkeypatch.setenv("RAYSWEEP_TRACKER_ADDRESSES", environment["RAYSWEEP_TRACKER_ADDRESSES"])
    monkeypatch.setattr(credentials, "_known", {})
    assert credentials.whole(STORED) == WHOLE
    monkeypatch.delenv("RAYSWEEP_TRACKER_ADDRESSES")
    assert credentials.whole(STORED) == STORED
    monkeypatch.setenv("MLFLOW_TRACKING_URI", WHOLE)  # as for `raysweep continue`
    assert credentials.whole(STORED) == WHOLE
    assert (
        json.loads((made.folder / "experiment_config.json").read_text())["settings"]["trackers"]["mlflow"]["uri"]
        == STORED
    )
    for words in (["report", made.id], ["show", made.id], ["show", made.id, "--json"], ["list", "--json"]):
        with contextlib.suppress(SystemExit):
            main([*words, "--root", str(made.root.path)])
    out = capsys.readouterr()
    assert SECRET not in out.out + out.err
    assert holding(tmp_path) == []


def test_settings_show_it_neither_in_a_plan_nor_in_an_error(tmp_path):
    from raysweep.config import load as load_config
    from raysweep.trackers import credentials

    settings = load_config.validate({"data": {"source": "faces"}, "trackers": {"mlflow": {"uri": WHOLE}}})
    assert SECRET not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()
    assert settings.trackers.mlflow is not None
    assert settings.trackers.mlflow.uri == WHOLE
    assert SECRET not in repr(vars(credentials.stored(settings).trackers.mlflow))
    note = credentials.keep(settings.trackers)
    assert note is not None
    assert SECRET not in note.text
    assert "MLFLOW_TRACKING_PASSWORD" in note.text


def test_an_error_of_a_tracker_does_not_tell_it():
    from raysweep.trackers.worker import reason

    assert SECRET not in reason(RuntimeError(f"HTTPConnectionPool: {WHOLE} refused"))


def test_an_error_on_the_command_line_does_not_tell_it(capsys, tmp_path):
    from raysweep.cli.main import main

    (tmp_path / "c.yaml").write_text("data: {source: faces}\n")
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "c.yaml"), f"trackers.mlflow.urix={WHOLE}", "--dry-run"])
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "c.yaml"), f"trackers.mlflow=[{WHOLE}"])
    told = capsys.readouterr()
    assert "error" in told.err
    assert SECRET not in told.err + told.out


def test_the_server_in_a_strangers_folder_is_not_used(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from raysweep.config.tracking import MlflowSection
    from raysweep.errors import UntrustedError
    from raysweep.store import trust
    from raysweep.store.experiment import Experiment
    from raysweep.trackers import mlflow_
    from raysweep.trackers.state import TrackerState

    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "state"))
    folder = tmp_path / "root" / "e_1"
    folder.mkdir(parents=True)
    value = {
        "ids": {"run_id": "1", "uri": "https://evil.example"},
        "rows": 0,
        "started": 1.0,
        "digest": "",
        "status": None,
    }
    (folder / "tracker_mlflow.json").write_text(json.dumps(value))
    tracker = mlflow_.Tracker.__new__(mlflow_.Tracker)  # MLflow itself takes seconds to import
    tracker.mlflow = SimpleNamespace(get_tracking_uri=lambda: "sqlite:///mlflow.db")

    def place(uri: str | None) -> str | None:
        section = SimpleNamespace(mlflow=MlflowSection(uri=uri))
        current: Any = SimpleNamespace(experiment=Experiment(folder), trackers=section)
        return tracker._place(current, TrackerState(folder, "mlflow"))

    with pytest.raises(
        UntrustedError, match=r"no record that you sent e_1 to https://evil\.example.*MLFLOW_TRACKING_URI"
    ):
        place(None)
    with pytest.raises(UntrustedError):
        place("https://mine.example")
    assert place("https://me:x@evil.example") == "https://evil.example"  # the user's configuration says the same
    trust.remember("e_1", [mlflow_._ask("https://evil.example")])
    assert place(None) == "https://evil.example"
