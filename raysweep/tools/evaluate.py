"""Evaluate trained networks: every number with its interval, on the validation images, on the sealed test images, or on other data.

The order matters: everything is checked first; then the look at sealed images is recorded; only then are they scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep._text import counted, differences
from raysweep.errors import InputError
from raysweep.events import Building, Note, Progress, ignore
from raysweep.report import effects, figures, reliability
from raysweep.report.evaluation import FORMAT, Evaluation, Gain, Leaked, NetworkRef
from raysweep.report.findings import estimates
from raysweep.report.findings.arms import Arm, Cases
from raysweep.store import evaluations, files, layout, resolve
from raysweep.store.evaluations import Look
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Trust
from raysweep.tools import beyond, predict, pretrained, shown, sources, subjects
from raysweep.tools.predict import Network
from raysweep.tools.scores import Scores
from raysweep.tools.shown import Shown
from raysweep.tools.subjects import Subject
from raysweep.training import device as devices
from raysweep.training import trial

Loader = Callable[[], Network]


def evaluate(
    root: Root,
    reference: str,
    split: str = shown.TEST,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    trust: Trust = NOBODY,
    progress: Progress = ignore,
) -> Evaluation:
    """Evaluate what a reference means, and write the result into a folder of its own.

    Args:
        split: ``test`` or ``val``. Data that have no splits are evaluated whole.
        overrides: nested settings: ``data`` (other images), ``model.options`` of a model that others trained, and what a
            checkpoint of the old system does not say.
        classes: in the order of the network's outputs, where it is not known.

    Raises:
        NotFoundError, CheckpointError: there is no such checkpoint, or it is damaged. InputError: the images cannot be used.
        UntrustedError: it names code that nobody has approved.
    """
    if split not in (shown.VAL, shown.TEST):
        raise InputError(f"The split {split!r} is neither test nor val.")
    progress(Building())
    return evaluate_subject(root, subjects.find(root, reference), split, overrides, classes, trust, progress)


def evaluate_subject(
    root: Root,
    subject: Subject,
    split: str = shown.TEST,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    trust: Trust = NOBODY,
    progress: Progress = ignore,
) -> Evaluation:
    """The same of networks that are known already; of two groups also the differences between the first and the second."""
    over = dict(overrides or {})
    if subject.kind == subjects.MODEL:
        sources.check_named(subject.reference, over)
    loaders = [[_loader(root, r, over, classes, trust) for r in group.references] for group in subject.groups]
    # Each is loaded once to check it, and again when it is its turn: a look that fails half-way would be wasted.
    facts = [[_tried(load()) for load in of_group] for of_group in loaders]
    _check_alike([n for of_group in facts for n in of_group])
    found = sources.images(root, facts[0][0], split, over, progress)
    begun = _look(root, subject, facts, found.shown, progress) if found.shown.sealed else None
    scores = Scores(found.shown, _device(over))
    logs = [[scores.of(load()) for load in of_group] for of_group in loaders]  # one network at a time in memory
    begun = begun or _new(root, subject)
    result = _result(root, subject, facts, found, logs, begun)
    _write(begun.folder, result)
    return result


def _loader(root: Root, reference: str, over: Mapping[str, Any], classes: Sequence[str] | None, trust: Trust) -> Loader:
    if pretrained.is_named(reference):
        return partial(pretrained.load, reference, over, classes)
    return partial(predict.load, root, reference, over, classes, trust)


def _tried(network: Network) -> Network:
    """A network without its weights, after a try. Raises ConfigError if it cannot take its images."""
    trial.try_out(network.model, network.shape, len(network.classes))
    return replace(network, model=nn.Identity())


def _check_alike(networks: Sequence[Network]) -> None:
    """Raises InputError if the networks have different classes or images of different form."""
    first = networks[0]
    for other in networks[1:]:
        if other.classes != first.classes:
            raise InputError(f"{differences(first.classes, other.classes, first.source, other.source)}.")
        if other.shape != first.shape:
            raise InputError(f"{first.source} takes images of another form ({first.shape}) than {other.source}.")


def _device(over: Mapping[str, Any]) -> torch.device:
    wanted = (over.get("scaling") or {}).get("use_gpu", "auto")
    return devices.current() if wanted is not False and devices.found() is not None else devices.CPU


@dataclass(frozen=True)
class _Begun:
    """The folder of an evaluation, and which look at sealed images it is."""

    folder: evaluations.Evaluation
    looked: str
    look: int | None = None
    before: tuple[Look, ...] = ()
    notes: tuple[str, ...] = ()


def _new(root: Root, subject: Subject) -> _Begun:
    now = datetime.now()
    return _Begun(evaluations.create(root, subject.name, now), now.isoformat(timespec="milliseconds"))


def _look(
    root: Root, subject: Subject, facts: Sequence[Sequence[Network]], images: Shown, progress: Progress
) -> _Begun:
    """Record that sealed images will be scored: in a new folder, and in the experiments' own logs."""
    begun = _new(root, subject)
    folder, looked = begun.folder, begun.looked
    told = {"reference": subject.reference, "looked": looked, "split": images.split, "images": len(images.labels)}
    sealed = {"sealed_sha256": images.sha256}
    folder.write({"format_version": FORMAT, "id": folder.id, "status": evaluations.BEGUN, **told, **sealed})
    every = evaluations.looks(root, images.sha256)
    mine = Look(looked, folder.id, subject.reference)
    before = tuple(look for look in every if look < mine)
    number = len(before) + 1
    text = f"{evaluations.ordinal(number)} look at these {counted(len(images.labels), 'test image')}"
    progress(Note(f"{text[0].upper()}{text[1:]}."))
    notes = []
    named = [r for group in subject.groups for r in group.references if subject.kind != subjects.MODEL]
    for at, network in zip(named, (n for of_group in facts for n in of_group), strict=False):
        experiment, _, _ = resolve.find_checkpoint(root, at)
        event = {"evaluation": folder.id, **told, **sealed, "checkpoint": network.source, "look": number, "text": text}
        if (why := evaluations.record_in(experiment, event)) is not None:
            notes.append(f"The log of {experiment.id} does not have this look, because {why}; {folder.id} has it.")
    return _Begun(folder, looked, number, before, tuple(notes))


def _result(
    root: Root,
    subject: Subject,
    facts: Sequence[Sequence[Network]],
    found: sources.Found,
    logs: Sequence[Sequence[np.ndarray]],
    begun: _Begun,
) -> Evaluation:
    images = found.shown
    everything = np.ones(len(images.labels), dtype=bool)
    cases, arms = _part(subject, images, logs, everything)
    numbers = estimates.estimate(arms, cases)
    differing, gain = _gain(subject, arms, cases, images.classes)
    moved, why = None, list[str]()
    if len(arms) == 2 and images.split != shown.VAL:
        control = subject.groups[1].references
        moved, why = beyond.of_control(
            root, control, subject.metric, arms[0], arms[1], cases, images.classes, differing
        )
    networks = tuple(tuple(NetworkRef(n.source, n.sha256 or None, n.seed) for n in of_group) for of_group in facts)
    return Evaluation(
        id=begun.folder.id,
        looked=begun.looked,
        reference=subject.reference,
        kind=subject.kind,
        split=images.split,
        images=len(images.labels),
        cases=cases.number,
        sha256=images.sha256,
        classes=images.classes,
        counts={c: int(n) for c, n in zip(images.classes, cases.counts, strict=True)},
        networks=networks,
        arms=tuple(numbers),
        effects=differing,
        gain=gain,
        look=begun.look,
        before=begun.before,
        leaked=None if found.leaked is None else _without(subject, images, logs, found.leaked),
        moved=moved,
        left_out=tuple((u.name, u.reason) for u in images.undecodable),
        notes=(*subject.notes, *found.notes, *images.notes, *begun.notes, *why, *_selected(subject, images)),
        folder=begun.folder.address,
    )


def _part(
    subject: Subject, images: Shown, logs: Sequence[Sequence[np.ndarray]], rows: np.ndarray
) -> tuple[Cases, list[Arm]]:
    """Some of the images (bool (n,)), and what every network says of them."""
    cases = Cases(images.labels, len(images.classes), images.groups, images.prior).part(rows)
    arms = [
        Arm(group.name, [lambda found=found: found[rows] for found in of_group])  # type: ignore[misc]
        for group, of_group in zip(subject.groups, logs, strict=True)
    ]
    return cases, arms


def _gain(
    subject: Subject, arms: Sequence[Arm], cases: Cases, classes: Sequence[str]
) -> tuple[tuple[effects.Effect, ...], Gain | None]:
    """(every difference between the chosen branch and the control, the gain that it was chosen for)."""
    if len(arms) < 2:
        return (), None
    every, _ = effects.of_arms(arms[1], [arms[0]], cases, classes)
    if subject.winner is None:
        return tuple(every), None
    of_metric = next(e for e in every if (e.target, e.metric) == (effects.ALL, subject.metric))
    w = subject.winner
    gain = Gain(
        subject.metric,
        w.branch,
        w.among,
        w.gain,
        w.corrected,
        of_metric.difference,
        of_metric.low,
        of_metric.high,
        of_metric.label,
        subject.luck,
    )
    return tuple(every), gain


def _without(subject: Subject, images: Shown, logs: Sequence[Sequence[np.ndarray]], leaked: np.ndarray) -> Leaked:
    """The numbers without images that the networks were trained on."""
    count = int(leaked.sum())
    if not count or leaked.all():
        return Leaked(count, (), None)
    cases, arms = _part(subject, images, logs, ~leaked)
    _, gain = _gain(subject, arms, cases, images.classes)
    return Leaked(count, tuple(estimates.estimate(arms, cases)), None if gain is None else gain.value)


def _selected(subject: Subject, images: Shown) -> list[str]:
    """What was chosen on these images, if anything was."""
    if images.split != shown.VAL:
        return []
    if subject.winner is not None and subject.winner.among > 1:
        return ["The branch was chosen on these images, so its numbers are better than they will be on others."]
    if subject.reference.endswith("@best"):
        return ["The epoch was chosen on these images, so its numbers are better than they will be on others."]
    return []


def _write(folder: evaluations.Evaluation, result: Evaluation) -> None:
    """The files; ``evaluation.json`` is the last one."""
    where = Path(folder.folder)
    files.write_atomic(where / layout.EVALUATION_CSV, result.csv().encode())
    for i, arm in enumerate(result.arms):
        of = f"{result.split}, {arm.name}" if len(result.arms) > 1 else result.split
        what = "image" if arm.networks == 1 else "prediction"
        one = result.networks[i][0].reference if arm.networks == 1 else result.reference  # which names the epoch
        if arm.together is None:
            picture = figures.matrix_png(arm.matrix, result.classes, arm.overall["accuracy"].value, one, of, what=what)
        else:
            count = result.images * arm.networks
            picture = figures.together_png(arm.matrix, arm.together, result.classes, one, of, count, what=what)
        files.write_atomic(where / (layout.EVALUATION_CONFUSION if i == 0 else layout.CONTROL_CONFUSION), picture)
    title = f"{result.reference}, {counted(result.images, 'image')} ({result.split})"
    if result.arms[0].together is None:
        files.write_atomic(where / layout.RELIABILITY, reliability.reliability_png(result.arms, title))
    folder.write(result.to_json())
