"""A stranger's folder under the root, copied there by rsync or by a shared file system: complete, its hashes right, with code
in every place that could hold it. No verb runs it; each says what it wants and how to allow it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.cli.hostile.cases import CONFIG, Room, Work, add, saved
from tests.cli.hostile.files import a_sweep
from tests.cli.hostile.pickles import hub, payload

Spoil = Callable[[dict[str, Any], Room], object]  # changes a checkpoint's content

# The arguments of every verb that builds a network; each must be refused with this exit code.
BUILDING: dict[str, Sequence[str]] = {
    "predict": ["predict", "{id}@1", "{image}"],
    "evaluate": ["evaluate", "{id}@1", "--split", "val"],
    "export": ["export", "{id}@1", "--to", "safetensors", "-o", "{out}"],
    "resume": ["resume", "--from", "{id}@1", "--epochs", "1"],
    "resume --dry-run": ["resume", "--from", "{id}@1", "--epochs", "1", "--dry-run"],
    "branch": ["branch", "--from", "{id}@1", "--weights-grid", "{grid}"],
    "branch --dry-run": ["branch", "--from", "{id}@1", "--weights-grid", "{grid}", "--dry-run"],
    "continue": ["continue", "{id}"],
    "verify --replay": ["verify", "{id}", "--replay"],
    "import": ["import", "{folder}"],
}
READING: dict[str, Sequence[str]] = {
    "list": ["list"],
    "show": ["show", "{id}"],
    "lineage": ["lineage", "{id}"],
    "diff": ["diff", "{id}@1", "{id}@2"],
    "suggest": ["suggest", "{id}"],
    "compare": ["compare", "{id}", "{id}"],
    "report": ["report", "{id}"],
    "verify": ["verify", "{id}"],
}


def strangers(room: Room, spoil: Spoil) -> Path:
    """A whole experiment with one epoch to go, of which every part agrees with every other."""
    import torch

    folder = room.experiment(epochs=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    for row in manifest["checkpoints"]:
        content = torch.load(folder / row["file"], weights_only=True)
        content["config"]["num_epochs"] = content["config"]["settings"]["training"]["epochs"] = 3
        spoil(content, room)
        data = saved(content)
        (folder / row["file"]).write_bytes(data)
        row.update({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"settings": content["config"]["settings"]}))
    return folder


def set_option(section: str, **values: Any) -> Spoil:
    def spoil(content: dict[str, Any], room: Room) -> None:
        given = {k: v(room) if callable(v) else v for k, v in values.items()}
        content["config"]["settings"][section].update(given)

    return spoil


def run(room: Room, words: Sequence[str], folder: Path, *more: str) -> tuple[int, str]:
    """(exit code, what the command printed)."""
    from raysweep.cli.main import main

    places = {"id": folder.name, "folder": folder, "out": room.folder / "exported", "grid": room.folder / "grid.yaml"}
    places["image"] = next((room.template.parents[1] / "images" / "cat").iterdir())
    code, told = 0, io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            main([word.format(**places) for word in words] + ["--root", str(room.root), *more])
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    print(f"--- {words[0]}: {code}\n{told.getvalue()}")
    return code, told.getvalue()


def every_verb(spoil: Spoil, verbs: dict[str, Sequence[str]], expected: str, *codes: int) -> Callable[[Room], Work]:
    """All verbs, one after another: none runs the payload, and each ends with one of the codes. Those that build a network say
    what is expected and write nothing."""

    def make(room: Room) -> Work:
        folder = strangers(room, spoil)
        room.put("grid.yaml", "weights: {cat: [2.0]}\ncontrol: false\nepochs: 1\n")

        def work() -> None:
            from tests.cli.hostile.running import tree

            for verb, words in verbs.items():
                before = tree(room.root)
                code, told = run(room, words, folder)
                assert not room.marker.exists(), f"{verb} ran the payload"
                assert code in codes, f"{verb} ended with {code}"
                if verbs is READING:
                    continue
                assert re.search(OURS if verb == "import" else expected, told, re.DOTALL), f"{verb} said {told}"
                if verb != "continue" or spoil is not poisoned:  # its log says that it failed
                    changed = {n for n, what in tree(room.root).items() if before.get(n) != what}
                    # `continue` takes the lock before it builds a network whose settings name nothing.
                    lock = {f"{folder.name}/.writer.fence"} if expected.startswith("hf:") else set()
                    assert changed <= lock, f"{verb} wrote {changed}"

        return work

    return make


def loads_pickle(room: Room) -> str:
    """A file that runs code where it is unpickled."""
    import torch

    path = room.folder / "weights.pth"
    torch.save({"state_dict": payload(room)}, path)
    return str(path)


def network(room: Room, **config: Any) -> str:
    """A folder of transformers with code in it."""
    folder = room.folder / "network"
    folder.mkdir(exist_ok=True)
    code = f"import os\nos.system(\"touch '{room.marker}'\")\n"
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).write_text(code)
    (folder / "config.json").write_text(json.dumps(config))
    return f"hf:{folder}"


AUTO_MAP = {"AutoConfig": "configuration_x.X", "AutoModelForImageClassification": "modeling_x.X"}
OURS = "was written by raysweep itself"  # import takes no folder of ours
ASKS = "wants to .*no record that you made .*--trust"


def poisoned(content: dict[str, Any], room: Room) -> None:
    content["history"] = payload(room)


def nested(room: Room) -> str:
    arguments = {"checkpoint_path": loads_pickle(room)}
    return network(room, model_type="timm_wrapper", architecture="resnet10t", num_classes=3, model_args=arguments)


def own_code(room: Room) -> str:
    return network(room, model_type="x", auto_map=AUTO_MAP)


def in_timm(**options: Any) -> Spoil:
    return set_option("model", name="timm:resnet10t", options=lambda room: {k: v(room) for k, v in options.items()})


SPOILS: dict[str, tuple[Spoil, str]] = {
    "the model": (set_option("model", name="python:torch.hub:load", options=hub), ASKS),
    "the options of a timm model": (in_timm(checkpoint_path=loads_pickle), f"{ASKS}.*model.options.checkpoint_path="),
    "an address for a timm model": (
        in_timm(pretrained=bool, pretrained_cfg_overlay=lambda room: {"url": f"file://{loads_pickle(room)}"}),
        f"{ASKS}.*pretrained_cfg_overlay",
    ),
    "the options of a transformers model": (
        set_option("model", name=own_code, options={"trust_remote_code": True, "auto_map": AUTO_MAP}),
        f"{ASKS}.*trust_remote_code",
    ),
    "a network's folder": (set_option("model", name=own_code, options={}), "hf:.*cannot be used"),
    "a network's folder that hands a pickle to timm": (
        set_option("model", name=nested, options={}),
        "hf:.*checkpoint_path.*If you trust it, repeat them",
    ),
    "the loss": (set_option("loss", kind="python:torch.hub:load"), f"{ASKS}.*loss.kind=python:torch.hub:load"),
    "an option that does not exist": (set_option("training", loss="python:torch.hub:load"), "python:torch.hub:load"),
    "a transform": (set_option("data", transform=["python:torch.hub:load"]), "python:torch.hub:load"),
    "the sampler": (set_option("sampling", strategy="python:torch.hub:load"), "python:torch.hub:load"),
    "a pickle": (poisoned, "could run code"),
}
for where, (spoil, told) in SPOILS.items():
    add(f"a stranger's folder with code in {where}", "", every_verb(spoil, BUILDING, told, 1, 2), 0)
add("reading a stranger's folder with code", "", every_verb(SPOILS["the model"][0], READING, "", 0, 1, 2), 0)


def sweep_of_a_stranger(room: Room) -> Work:
    path = a_sweep(room) / "sweep.json"
    record = json.loads(path.read_text())
    record["settings"]["model"] = {"name": "python:torch.hub:load", "options": hub(room)}
    path.write_text(json.dumps(record))
    return ["continue", path.parent.name]


def branch_of_a_stranger(room: Room) -> Work:
    """The sweep is harmless, one of its branches is not."""
    sweep = a_sweep(room)
    for path in room.root.glob(f"*/{CONFIG}"):
        config = json.loads(path.read_text())
        if config.get("sweep"):
            config["settings"]["model"] = {"name": "python:torch.hub:load", "options": hub(room)}
            path.write_text(json.dumps(config))
    return ["continue", sweep.name]


add("going on with a stranger's sweep", "sweeps/.*wants to run.*torch.hub:load.*--trust", sweep_of_a_stranger, 2)
add("going on with a stranger's branch", "control.*wants to run.*torch.hub:load.*--trust", branch_of_a_stranger, 2)


def trusted(room: Room) -> Work:
    """The control: with --trust it runs."""
    folder = strangers(room, SPOILS["the model"][0])

    def work() -> None:
        run(room, BUILDING["predict"], folder, "--trust")

    return work


add("control: with --trust the stranger's code runs", "", trusted, 0)
