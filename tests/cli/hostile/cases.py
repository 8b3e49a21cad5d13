"""What a case is, and the room in which it happens: a root with a real experiment, which is then spoilt."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import SMALL_NET

LIMIT_S = 10.0  # seconds of a CPU
CONFIG = "experiment_config.json"

Work = Sequence[object] | Callable[[], object]  # the arguments of a command; of a control, a function


@dataclass(frozen=True)
class Case:
    """What is done, and how it must end: with one of these exit codes and a text that matches."""

    make: Callable[[Room], Work]
    told: str
    codes: tuple[int, ...]
    limit_s: float = LIMIT_S


CASES: dict[str, Case] = {}


def add(name: str, told: str, make: Callable[[Room], Work], *codes: int, limit_s: float = LIMIT_S) -> None:
    assert name not in CASES
    CASES[name] = Case(make, told, codes or (2,), limit_s)


class Room:
    """One case's place: ``root`` with experiments, ``outside``, which must stay as it is, and the payload's marker."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder, self.template = folder, template
        self.root, self.outside, self.marker = folder / "root", folder / "outside", folder / "was-run"
        self.root.mkdir(parents=True)
        self.outside.mkdir()

    def put(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def experiment(self, epochs: int = 2, **config: Any) -> Path:
        """A real experiment of two epochs under the root; with ``epochs=3`` it has one to go."""
        folder = self.root / self.template.name
        shutil.copytree(self.template, folder)
        path = folder / "experiment_config.json"
        value = json.loads(path.read_text())
        value["num_epochs"] = value["settings"]["training"]["epochs"] = epochs
        path.write_text(json.dumps(value | config))
        return folder

    def manifest(self, change: Callable[[dict[str, Any]], object], epochs: int = 2) -> Path:
        """The same with a manifest that somebody changed."""
        folder = self.experiment(epochs)
        path = folder / "manifest.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        return folder

    def state(self) -> dict[str, Any]:
        import torch

        return torch.load(self.template / "checkpoint_epoch_1.pt", weights_only=True)

    def sent(self, content: Any, **options: Any) -> list[object]:
        """The command that resumes a checkpoint somebody sent: bytes, or a value to save."""
        data = content if isinstance(content, bytes) else saved(content, **options)
        return ["resume", "--from", self.put("sent.pt", data), "--epochs", 1]

    def poisoned(self, **changes: Any) -> list[object]:
        """The same for a whole checkpoint of which some parts were replaced."""
        return self.sent(self.state() | changes)

    def settings(self, section: str, **values: Any) -> list[object]:
        """The same where only settings in the checkpoint were replaced."""
        config = self.state()["config"]
        settings = config["settings"]
        return self.poisoned(config={**config, "settings": {**settings, section: {**settings[section], **values}}})

    def weights(self, given: object) -> list[object]:
        return ["resume", "--from", f"{self.experiment().name}@1", "--weights", given]

    def grid(self, text: str | bytes, *options: object) -> list[object]:
        path = self.put("f.yaml", text)
        return ["branch", "--from", f"{self.experiment().name}@1", "--weights-grid", path, *options]

    def config(self, images: Path | None = None, **sections: Any) -> Path:
        data = {"path": str(images or self.template.parents[1] / "images")}
        training = {"epochs": 1, "batch_size": 16, "augment": {"crop_padding": 1}}
        scaling = {"num_workers": 0, "threads": 1}
        base = {"data": data, "model": SMALL_NET, "training": training, "scaling": scaling}
        return self.put("c.yaml", yaml.safe_dump(base | sections))


def saved(value: Any, **options: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()
