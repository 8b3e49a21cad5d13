"""The commands and files that reproduce a sweep or an experiment."""

from __future__ import annotations

from collections.abc import Sequence

from raysweep.errors import RaysweepError
from raysweep.report import commands
from raysweep.report.sections.records import Command, Recipe, SourceFile
from raysweep.store.experiment import Experiment
from raysweep.store.sweep import Sweep


def sweep(found: Sweep, experiments: Sequence[Experiment], most: int) -> Recipe:
    """The command of the whole sweep with its grid file, and the commands of its children, at most ``most`` of these."""
    children = _children(experiments, most)
    try:
        command, grid = commands.of_sweep(found)
    except RaysweepError as error:
        return Recipe(children.commands, (), [*children.notes, str(error)])
    whole = Command("the whole sweep", command)
    return Recipe([whole, *children.commands], [SourceFile("grid.yaml", grid)], children.notes)


def experiment(found: Experiment) -> Recipe:
    """The command of a child, or ``raysweep run`` with the settings of an experiment without a parent."""
    child = _children([found], 1)
    if not child.commands and (settings := commands.settings_of(found)):
        command = Command(found.id, "raysweep run settings.yaml")
        return Recipe([command], [SourceFile("settings.yaml", settings)], child.notes)
    return child


def _children(experiments: Sequence[Experiment], most: int) -> Recipe:
    made: list[Command] = []
    notes: list[str] = []
    for member in experiments:
        try:
            command = commands.of_child(member)
        except RaysweepError as error:
            notes.append(str(error))
            continue
        if command:
            made.append(Command(member.id, command))
    return Recipe(made[:most], (), notes)
