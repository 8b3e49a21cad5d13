"""``raysweep run``: train an experiment from a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from raysweep._paths import is_no_folder
from raysweep._text import Nested, counted, plain
from raysweep.cli.options import ROOT, Address, DryRun, Purpose, ShowConfig, Workers
from raysweep.cluster import signals
from raysweep.display.shares import MOST_CLASSES, show_shares
from raysweep.display.terminal import put, put_json, say, say_next

if TYPE_CHECKING:
    from raysweep.display.run import RunDisplay
    from raysweep.plan.types import Plan
    from raysweep.store.experiment import Experiment

GRID = "grid"  # the example for the classes of the built-in faces


def register(app: typer.Typer) -> None:
    app.command("run", no_args_is_help=True)(run)


def run(
    config: str = typer.Argument(
        ...,
        metavar="[CONFIG]",
        help="A YAML file, or the name of an example: base. It may be left out: raysweep run data.path=FOLDER.",
    ),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[key=value]...", help="Settings that override the file, such as training.epochs=10."
    ),
    name: str | None = typer.Option(None, "--name", help="Name of the experiment."),
    epochs: int | None = typer.Option(None, "--epochs", min=1, help="training.epochs."),
    rate: float | None = typer.Option(None, "--lr", min=0, help="training.learning_rate."),
    weights: str | None = typer.Option(
        None, "--weights", help="sampling.weights: disgust=5,fear=2; fear=35%; balanced, sqrt; JSON; or a file."
    ),
    description: Purpose = None,
    root: Annotated[str | None, ROOT] = None,
    workers: Workers = None,
    address: Address = None,
    profile: bool = typer.Option(
        False, "--profile", help="Measure what the time is spent on, and the distance to this machine's limit."
    ),
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    as_json: bool = typer.Option(False, "--json", help="With --dry-run: print the resolved configuration as JSON."),
) -> None:
    """Train an experiment from a configuration file. Prints the path of its folder."""
    from raysweep.config import load as load_config
    from raysweep.config import weights_file
    from raysweep.display.run import RunDisplay

    count = load_config.parse_workers(workers)
    flags = {
        "experiment": {k: v for k, v in (("name", name), ("description", description)) if v is not None},
        "scaling": {
            k: v
            for k, v in (("num_workers", count), ("address", address), ("profile", profile or None))
            if v is not None
        },
    }
    more: Nested = {k: v for k, v in flags.items() if v} | ({"root": root} if root else {})
    short = {"epochs": epochs, "learning_rate": rate}
    if section := {k: v for k, v in short.items() if v is not None}:
        more["training"] = section
    if weights is not None:
        more["sampling"] = {"weights": weights_file.parse(weights)}
    given = [*([config] if is_override(config) else []), *(overrides or [])]
    settings = load_config.load(None if is_override(config) else config, given, more)
    with RunDisplay() as display:
        from raysweep.api import training

        plan = training.plan_run(settings, display, writable=not dry_run)
        if dry_run:
            display.close()
            show_plan(plan, as_json, show_config)
            return
        result = training.train(plan, display)
    put(str(result.experiment.folder))
    announce(display, result.experiment)


def is_override(text: str) -> bool:
    """Whether the first argument is a setting, and no file: ``raysweep run data.path=FOLDER``."""
    return "=" in text and not is_no_folder(text)


def announce(display: RunDisplay, experiment: Experiment) -> None:
    """Print the summary of a finished run: the confusion matrix, then the next command to type."""
    signals.all_done()
    display.summary(experiment)
    from raysweep.plan import advice

    say_next(experiment.root, *advice.following(experiment, GRID))


def show_plan(plan: Plan, as_json: bool, show_config: bool) -> None:
    """Print what --dry-run shows: the share of each class, and where it would run; the configuration if it is asked for."""
    resolved = plan.settings.model_dump(mode="json")
    weights = plan.weights.as_dict()
    resolved["sampling"]["weights"] = weights
    if as_json:
        put_json(
            {
                "settings": resolved,
                "classes": list(plan.data.classes),
                "counts": plan.counts,
                "shares": plan.shares,
                "images_per_epoch": plan.quotas,
                "validation_images": plan.data.val_images,
                "reading": plan.data.reading.to_json(),
                "parameters": plan.parameters,
                "trained_parameters": plan.trained,
                "workers": plan.resources.workers,
                "threads": plan.resources.threads,
            }
        )
        return
    if show_config:
        from raysweep.config import yaml as yaml_file

        if len(weights) > MOST_CLASSES:  # a class that is not named has 1
            resolved["sampling"]["weights"] = {c: w for c, w in weights.items() if w != 1.0}
        put(yaml_file.dump(resolved))
    show_shares(plan.counts, plan.weights.as_dict(), plan.shares, plan.quotas, plan.data.reading.validation)
    for note in plan.notes:
        say(plain(note.text))
    if plan.data.reading.stored is None:  # else it was said while the images were read
        say(plan.data.kept())
    where = "in this process" if plan.resources.workers == 0 else counted(plan.resources.workers, "Ray worker")
    trained = "" if plan.trained == plan.parameters else f", {plan.trained:,} of them trained"
    say(
        f"{counted(plan.draws, 'image')} per epoch, {counted(plan.data.val_images, 'validation image')}; model with {counted(plan.parameters, 'parameter')}{trained}; {where}, "
        f"{counted(plan.resources.threads, 'thread')}. Nothing was started."
    )
