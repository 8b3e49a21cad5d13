"""The first weights of a network, from a file that ``model.init_from`` names.

What is loaded, missing, unexpected or of another shape, and what else the file holds, is said. All must fit, unless
``model.init_strict`` is false.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raysweep._text import counted, join_names, truncate
from raysweep.config.settings import ModelSection
from raysweep.errors import CheckpointError
from raysweep.training import candidates, hub, hub_torchvision, models, others, published
from raysweep.training import head as heads
from raysweep.training.candidates import Candidate, Match, Wanted

_MOST_NAMED = 50  # tensors of a kind, in the log
_COUNTER = "num_batches_tracked"  # of batch normalisation, since torch 0.4.1; nothing is computed with it


@dataclass(frozen=True)
class Loaded:
    """What came of it."""

    text: str  # one line, for the log
    head: bool  # the last layer is one that was trained


def keeps_head(section: ModelSection, loaded: Loaded | None, num_classes: int) -> bool:
    """Whether the last layer of a new experiment's network is one that was trained: of a file, or of a pretrained network."""
    if section.head == "replace":
        return False
    return loaded.head if loaded is not None else published.keeps_head(section, num_classes)


def initialise(model: nn.Module, section: ModelSection) -> Loaded | None:
    """Load the file that ``model.init_from`` names; None where it names none.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it is damaged, does not fit, or it cannot be told which of its tensors are meant.
    """
    source = section.init_from
    if not source:
        return None
    mine = model.state_dict()
    with others.opened(source) as file:
        if section.init_key:
            some = [candidates.at(file.content, section.init_key, source)]
        else:
            some = candidates.networks(file.content)
        if not some:
            raise _without_tensors(source, file.content)
        anew = _anew(model, section, some)
        wanted = _wanted(model, anew, some)
        found = candidates.chosen(some, wanted, file.load, source)
        if found.full or not section.init_strict:
            fitting = {n: file.load(found.candidate.tensors[found.names[n]]) for n in mine if n in found.fitting}
        problems = _problems(mine, found, anew, wanted, section)
        beside = others.beside(file.content, found.candidate.path)
    if problems and section.init_strict:
        raise CheckpointError(
            f"The weights in {found.title(source)} do not fit the model ({problems}). {_advice(model, found, wanted, section)}"
        )
    if not found.fitting:
        raise CheckpointError(
            f"Nothing in {source} fits the model ({problems}). Set model.init_from to weights of the same architecture."
        )
    told = [*_put(model, fitting, found.candidate), *_unlike(mine, fitting, anew, wanted)]
    head = heads.keys(model)
    text = f"{len(fitting)} of {len(mine)} tensors were taken from {found.title(source)}"
    text += f"; beside them it holds, unused: {_few(beside)}" if beside else ""
    text = "; ".join([text, *told, *([problems] if problems else [])])
    return Loaded(text, bool(head) and all(n in fitting for n in head))


def _few(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _without_tensors(source: str, content: Any) -> CheckpointError:
    what = others.beside(content if isinstance(content, dict) else {"the file itself": content}, ())
    told = f" What it holds was not run, because it could be code: {_few(what)}." if what else ""
    return CheckpointError(
        f"{truncate(source)} holds no tensors of a network.{told} Name a file that maps names to tensors, as "
        "torch.save(model.state_dict(), FILE) writes it."
    )


def _anew(model: nn.Module, section: ModelSection, some: list[Candidate]) -> frozenset[str]:
    """The tensors of last layers that begin anew: as the user says, or for published weights of another number of classes."""
    if section.head == "replace":
        return frozenset(heads.keys(model))
    if not section.pretrained or section.head == "keep":
        return frozenset()
    mine, names = model.state_dict(), published.heads_of(model)
    widths = {
        tuple(place.shape)
        for candidate in some
        for key, place in candidate.tensors.items()
        if any(key == n or key.endswith(f".{n}") for n in names)
    }
    fits = any(tuple(mine[n].shape) in widths for n in names)
    return frozenset() if fits or not widths else frozenset(names)


def _wanted(model: nn.Module, anew: frozenset[str], some: list[Candidate]) -> Wanted:
    mine = model.state_dict()
    kinds = {name: candidates.kind(tensor) for name, tensor in mine.items()}
    counted_there = any(name.endswith(_COUNTER) for c in some for name in c.tensors)
    needed = {n for n in mine if n not in anew and (counted_there or not n.endswith(_COUNTER))}
    return Wanted(kinds, frozenset(needed), hub.names_in_files(model))


def _problems(
    mine: dict[str, torch.Tensor], found: Match, anew: frozenset[str], wanted: Wanted, section: ModelSection
) -> str:
    """Which tensors are missing, unexpected or of another shape, as a text; empty where all fit."""
    tensors = found.candidate.tensors
    theirs = {name: tensors[own] for name, own in found.names.items() if name not in anew and name not in found.fitting}
    if section.pretrained:  # torchvision publishes networks with second classifiers, and builds them without
        theirs = {
            name: place for name, place in theirs.items() if not name.startswith((*hub_torchvision.SECOND_CLASSIFIERS,))
        }
    needed = {n: mine[n] for n in mine if n in wanted.needed and n not in found.fitting}
    return models.misfits(needed, theirs, models.MAX_NAMED if section.init_strict else _MOST_NAMED)


def _put(model: nn.Module, fitting: dict[str, torch.Tensor], candidate: Candidate) -> list[str]:
    """Load the tensors; returns what was converted."""
    mine, told = model.state_dict(), []
    gray = [n for n in fitting if candidates.for_gray(candidates.kind(mine[n]), candidates.kind(fitting[n]))]
    for name in gray:
        fitting[name] = fitting[name].sum(1, keepdim=True)
    if gray:
        told.append(f"for gray images the three colours of {join_names(gray)} were added up")
    types = sorted({str(t.dtype).partition(".")[2] for n, t in fitting.items() if t.dtype != mine[n].dtype})
    if types:
        told.append(f"numbers were converted from {join_names(types)}")
    state = OrderedDict(fitting)
    if candidate.metadata and {*candidate.tensors} >= {*fitting}:  # under the names of the modules
        state._metadata = candidate.metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=False)
    return told


def _unlike(
    mine: dict[str, torch.Tensor], fitting: dict[str, torch.Tensor], anew: frozenset[str], wanted: Wanted
) -> list[str]:
    """What was not needed from the file."""
    told = []
    if anew:
        told.append(f"the last layer begins anew ({join_names(sorted(anew))})")
    counters = [n for n in mine if n not in wanted.needed and n not in anew and n not in fitting]
    if counters:
        told.append(
            f"{counted(len(counters), 'counter')} of batch normalisation, which old files do not have, stay at zero"
        )
    return told


def _advice(model: nn.Module, found: Match, wanted: Wanted, section: ModelSection) -> str:
    """What to do about tensors that do not fit."""
    told = []
    head, lacking = {*heads.keys(model)}, wanted.needed - found.fitting
    inside = f"{found.candidate.title}." if found.candidate.title else ""
    if other := candidates.under_other_names(found.candidate, wanted):
        keys = " or ".join(f"model.init_key={inside}{name}" for name in other)
        told.append(f"All fit under other beginnings of their names: set {truncate(keys, 500)}.")
    elif lacking and lacking <= head:
        told.append("Only the last layer does not fit: model.head=replace lets it begin anew.")
    network = others.said(section.init_from).network if section.init_from else ""
    if network:
        told.append(f"The file was written for {truncate(network, 100)}.")
    return " ".join(
        [
            *told,
            "Use weights of the same architecture, or change model.name and model.options; model.init_strict=false loads what fits.",
        ]
    )
