"""What a reference means: an experiment, a sweep, a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from raysweep._text import join_names, short_repr, truncate
from raysweep.errors import (
    AmbiguousReferenceError,
    CheckpointError,
    NotFoundError,
    did_you_mean,
)
from raysweep.store import commands, files, hunts, layout
from raysweep.store.catalog import experiments
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep, all_sweeps

_REFERENCE = re.compile(r"(?P<experiment>[^@]+)@(?P<which>[0-9]{1,9}|best|latest)")


_Found = TypeVar("_Found", Experiment, Sweep)


def _the_one(everything: Sequence[_Found], reference: str, what: str) -> _Found | None:
    """The only one whose id is the reference, else whose name is, else whose id starts with it; None if none fits.

    Raises:
        AmbiguousReferenceError: several fit.
    """
    for matches in (
        [e for e in everything if e.id == reference],
        [e for e in everything if layout.split_id(e.id)[0] == reference],
        [e for e in everything if e.id.startswith(reference)],
    ):
        if len(matches) > 1:
            some = ", ".join(e.id for e in matches[-5:])
            raise AmbiguousReferenceError(
                f"{short_repr(reference)} fits {len(matches)} {what}: {some}. Give more of the id."
            )
        if matches:
            return matches[0]
    return None


def find_experiment(root: Root, reference: str) -> Experiment:
    """The experiment that a path, an id, a name or the unambiguous start of an id means.

    Raises:
        NotFoundError: none or several match; the message lists them.
    """
    as_path = Root.locate(reference)
    if os.path.isfile(as_path / layout.CONFIG):  # unlike Path.is_file, also False for a text that cannot be a path
        return Experiment(as_path.resolve())
    everything = experiments(root)
    try:
        found = _the_one(everything, reference, f"experiments under {root}")
    except AmbiguousReferenceError:
        _not_a_sweep(root, reference)
        raise
    if found is not None:
        return found
    if not everything:
        raise NotFoundError(
            f"There is no experiment under {root.path.absolute()}. Start one with `{commands.command(root, 'run', 'CONFIG')}`, or "
            "name another root with --root."
        )
    hint = did_you_mean(reference, [e.id for e in everything] + [layout.split_id(e.id)[0] for e in everything])
    raise NotFoundError(
        f"No experiment under {root} is called {short_repr(reference)}.{hint} "
        f"`{commands.command(root, 'list')}` shows all."
    )


def _not_a_sweep(root: Root, reference: str) -> None:
    """Raises AmbiguousReferenceError if a reference that fits several experiments is a sweep, and they are its branches."""
    sweeps = all_sweeps(root)
    named = [s for s in sweeps if reference in (s.id, layout.split_id(s.id)[0])] or [
        s for s in sweeps if s.id.startswith(reference)
    ]
    if len(named) == 1:
        branches = [e.id for e in named[0].experiments().values()]
        raise AmbiguousReferenceError(
            f"{short_repr(reference)} is the sweep {named[0].id}, but one experiment is needed here. Its branches are: "
            f"{join_names(branches)}."
        )


def by_id(root: Root, experiment_id: str) -> Experiment:
    """The experiment with exactly this id, as a record gives it.

    Raises:
        NotFoundError: it is not under this root.
    """
    folder = root.path / experiment_id
    if not _is_name(experiment_id) or not os.path.isfile(folder / layout.CONFIG):
        raise gone(root, experiment_id)
    return Experiment(folder, root)


def gone(root: Root, name: str) -> NotFoundError:
    """The error of an id that is not under this root."""
    return NotFoundError(f"{truncate(name)} is not under {root}; it was moved, renamed or deleted.")


def sweep_by_id(root: Root, sweep_id: str) -> Sweep:
    """The sweep with exactly this id, the name of its folder.

    Raises:
        NotFoundError: it is not under this root, or its folder is a link that leads out of it.
    """
    folder = root.path / layout.SWEEPS / sweep_id
    there = _is_name(sweep_id) and os.path.isfile(folder / layout.SWEEP) and files.inside(root.path, folder)
    if not there:
        raise gone(root, f"The sweep {truncate(sweep_id)}")
    return Sweep(folder, root)


def _is_name(text: str) -> bool:
    """Whether a text can be the name of a folder within another, and leads nowhere else."""
    return Path(text).name == text and text != ".."


def split_reference(reference: str) -> tuple[str, str] | None:
    """(experiment, which) of ``EXPERIMENT@5``, ``@best`` or ``@latest``; None for anything else."""
    match = _REFERENCE.fullmatch(reference)
    return (match["experiment"], match["which"]) if match else None


def find_checkpoint(root: Root, reference: str) -> tuple[Experiment, ManifestEntry | None, Path]:
    """The checkpoint that a reference means: its experiment, its manifest entry (None if it has none) and its path.

    Raises:
        NotFoundError: no such experiment or file. CheckpointError: a link in an experiment's folder that leads out of the root.
    """
    split = split_reference(reference)
    if split is not None and not os.path.exists(reference):
        experiment = find_experiment(root, split[0])
        if (old := _old_file(experiment, split[1])) is not None:
            return experiment, None, old
        entry = experiment.entry(split[1])
        return experiment, entry, experiment.folder / entry.file
    path = Root.locate(reference)
    if not os.path.isfile(path):
        if path.suffix != ".pt" and "/" not in reference:
            raise NotFoundError(
                f"{short_repr(reference)} is {_instead(root, reference) or 'not a checkpoint.'} Give a path to a .pt file or EXPERIMENT@5, EXPERIMENT@best, EXPERIMENT@latest; "
                f"`{commands.command(root, 'list')}` shows the experiments."
            )
        raise NotFoundError(
            f"There is no file {truncate(path)}. `{commands.command(root, 'list')}` shows the experiments, "
            f"`{commands.command(root, 'show', 'ID')}` their checkpoints."
        )
    # In an experiment's folder the manifest lists the file under this name, even if it is a link.
    folder = path.parent.resolve()
    if os.path.isfile(folder / layout.CONFIG):
        if not files.inside(folder.parent, path):
            raise CheckpointError(f"{path} is a link that leads out of the root. Name the file itself.")
    else:
        folder = path.resolve().parent
    experiment, name = Experiment(folder), path.name
    manifest = experiment.manifest()
    is_best = name == layout.BEST
    listed = next((e for e in manifest.entries if e.file == (manifest.best_file if is_best else name)), None)
    if listed is not None and is_best and files.sha256_file(path) != listed.sha256:
        listed = None  # it should be a copy of that checkpoint, but somebody has put another one there
    return experiment, listed, path


def check(root: Root, reference: str, checkpoint: bool = True) -> None:
    """Raises NotFoundError if the reference means no checkpoint, or, without ``checkpoint``, no sweep and no experiment either. It
    loads nothing heavy, so a wrong name is refused at once."""
    if checkpoint or split_reference(reference) is not None or reference.endswith(".pt"):
        find_checkpoint(root, reference)
    else:
        find_any(root, reference)


def _instead(root: Root, reference: str) -> str:
    """What a reference without an epoch is, and the checkpoint that was probably meant; empty if it is nothing."""
    try:
        found = find_any(root, reference)
    except AmbiguousReferenceError:
        return ""
    except NotFoundError:
        known = [i for e in experiments(root) for i in (e.id, layout.split_id(e.id)[0])]
        hint = did_you_mean(reference, known)
        return f"not a checkpoint.{hint}" if hint else ""
    if isinstance(found, Sweep):
        first = next((b.experiment for b in found.record().branches if b.experiment), None)
        return f"a sweep, not a checkpoint. Did you mean one of its branches, such as {first}@best?" if first else ""
    return f"an experiment, not a checkpoint. Did you mean {reference}@best, its best epoch?"


def _old_file(experiment: Experiment, which: str) -> Path | None:
    """The checkpoint file that ``best``, ``latest`` or an epoch's number names in a folder of the old system; None in any
    other folder.

    Raises:
        NotFoundError: the folder has no such checkpoint.
    """
    there = experiment.old_checkpoints()
    if not there:
        return None
    if which == "best" and (experiment.folder / layout.BEST).is_file():
        return experiment.folder / layout.BEST
    for position in there[-1:] if which == "latest" else there:
        if which == "latest" or (position.batch is None and str(position.epoch) == which):
            return experiment.folder / layout.checkpoint_name(position)
    have = ", ".join(str(p.epoch) for p in there if p.batch is None) or "none"
    raise NotFoundError(
        f"{experiment.id} has no checkpoint {which!r}. It has the epochs {have}; @best and @latest work too."
    )


def find_sweep(root: Root, reference: str) -> Sweep:
    """The sweep that a path, an id, a name or the unambiguous start of an id means.

    Raises:
        NotFoundError: none or several match, or the folder is a link that leads out of its root.
    """
    as_path = Root.locate(reference)
    if os.path.isfile(as_path / layout.SWEEP):
        path = Path(os.path.abspath(as_path))
        if not files.inside(path.parent.parent, path):
            raise NotFoundError(f"{path} is a link that leads out of the root. Replace it by the sweep's folder.")
        return Sweep(path.resolve())
    everything = all_sweeps(root)
    if (found := _the_one(everything, reference, "sweeps")) is not None:
        return found
    hint = did_you_mean(reference, [s.id for s in everything])
    there = f" There are: {join_names(s.id for s in everything[-5:])}." if everything else ""
    make = commands.command(root, "branch", "--from", "EXPERIMENT@EPOCH", "--weights-grid", "FILE")
    made = f" A sweep is made by `{make}`."
    raise NotFoundError(f"No sweep under {root} is called {short_repr(reference)}.{hint or there or made}")


def find_any(root: Root, reference: str) -> Sweep | Experiment:
    """The sweep or the experiment that a reference means. Every command that takes either uses this rule.

    A path is taken first, then an exact id, then a name, then the start of an id. The start of a sweep's id is usually the
    start of its branches' ids, too; it means the sweep.

    Raises:
        NotFoundError: nothing matches. AmbiguousReferenceError: several sweeps or experiments do; the message lists them.
    """
    as_path = Root.locate(reference)
    if os.path.isfile(as_path / layout.CONFIG):
        return find_experiment(root, reference)
    if os.path.isfile(as_path / layout.SWEEP):
        return find_sweep(root, reference)
    sweeps, others = all_sweeps(root), experiments(root)
    rules: tuple[Callable[[str], bool], ...] = (
        lambda known: known == reference,
        lambda known: layout.split_id(known)[0] == reference,
        lambda known: known.startswith(reference),
    )
    for fits in rules:
        matching = [s for s in sweeps if fits(s.id)]
        found: list[Sweep | Experiment] = [*matching, *_not_of([e for e in others if fits(e.id)], matching)]
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(root, reference, found)
    if (hunt := hunts.find(root, reference)) is not None:
        rounds = [r.sweep for r in hunt.record().rounds if r.sweep] or ["none yet"]
        raise NotFoundError(
            f"{hunt.id} is a hunt. Each of its rounds is a sweep: {join_names(rounds)}. Its page is {hunt.folder / layout.HUNT_PAGE}."
        )
    known = [s.id for s in sweeps] + [e.id for e in others]
    hint = did_you_mean(reference, [*known, *(layout.split_id(i)[0] for i in known)])
    raise NotFoundError(
        f"No experiment or sweep under {root} is called {short_repr(reference)}.{hint} `{commands.command(root, 'list')}` "
        "shows the experiments; name another root with --root."
    )


def _not_of(found: list[Experiment], sweeps: list[Sweep]) -> list[Experiment]:
    """The experiments that are not branches of these sweeps."""
    if not found or not sweeps:
        return found  # a sweep may have ten thousand branches: they are read only if it matters
    branches = {e.id for s in sweeps for e in s.experiments().values()}
    return [e for e in found if e.id not in branches]


def _ambiguous(root: Root, reference: str, found: Sequence[Sweep | Experiment]) -> AmbiguousReferenceError:
    ids = {"sweep": [f.id for f in found if isinstance(f, Sweep)]}
    ids["experiment"] = [f.id for f in found if isinstance(f, Experiment)]
    counts = " and ".join(f"{len(of)} {kind}{'s' * (len(of) > 1)}" for kind, of in ids.items() if of)
    some = ", ".join(f"{kind} {i}" for kind, of in ids.items() for i in of[-3:])
    return AmbiguousReferenceError(
        f"{short_repr(reference)} fits {counts} under {root}: {some}. Give more of the id, or the path of the folder."
    )
