"""``raysweep export``: the model of a checkpoint for other tools."""

from __future__ import annotations

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.consent import consent
from raysweep.cli.options import Adjust, Checkpoint, Classes, RootOption, TrustOption
from raysweep.display.terminal import put, say, split_classes
from raysweep.store.root import Root


def register(app: typer.Typer) -> None:
    app.command("export", no_args_is_help=True)(export)


def export(
    checkpoint: Checkpoint,
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings that an old checkpoint does not contain."
    ),
    form: str = typer.Option(..., "--to", help="Format: safetensors, pytorch (a state_dict), onnx or torchscript."),
    output: str | None = typer.Option(
        None, "--output", "-o", metavar="FILE", help="Default: the checkpoint's name, in the current folder."
    ),
    classes: Classes = None,
    adjust: Adjust = None,
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Export the model as safetensors, a PyTorch state_dict, ONNX or TorchScript. Also writes classes and preprocessing, and checks the result."""
    from raysweep.config import load as load_config
    from raysweep.errors import InputError, did_you_mean
    from raysweep.store import resolve

    endings = {"safetensors": ".safetensors", "pytorch": ".pth", "onnx": ".onnx", "torchscript": ".torchscript.pt"}
    if form not in endings:
        raise InputError(
            f"--to {form}: there is no such format.{did_you_mean(form, endings)} Use {', '.join(endings)}."
        )
    over = load_config.parse_overrides(overrides or [])
    place = Root.open(root)
    resolve.check(place, checkpoint)
    from raysweep.tools import export
    from raysweep.tools import predict as networks

    found = networks.load(place, checkpoint, over, split_classes(classes), consent(trust), adjust)
    for note in found.notes:
        say(plain(f"Note: {note}."))
    name = found.source.rpartition("/")[2].removesuffix(".pt").replace("@", "_epoch_")
    target = user_path(output) if output else user_path(name + endings[form])
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"-o {plain(target)}: give the name of a file in a folder that exists.")
    for there in (target, target.with_name(target.name + ".json")):
        if there.exists():
            raise InputError(f"{plain(there)} exists. Delete it, or name another file with -o.")
    difference = export.export(found, form, target)
    put(plain(target))
    if found.adjustment is not None:
        say(plain(str(found.adjustment)))
    say(
        f"Checked against the checkpoint: probabilities differ by at most {difference:.1g}. Classes and preprocessing: {plain(target)}.json"
    )
