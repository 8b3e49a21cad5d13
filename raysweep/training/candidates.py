"""Which tensors of a file are meant for a network: in which of its containers they lie, and what their names begin with.

Nothing is guessed between two that fit alike; ``model.init_key`` says which one is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from raysweep._text import Nested, join_names, truncate
from raysweep.errors import CheckpointError
from raysweep.store.untrusted.pickled import Thing
from raysweep.store.untrusted.tensors import Place
from raysweep.training.others import entries_of

# What wrappers put before the names of a network's tensors; the last one is of raysweep's earlier versions.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "body.")
_STEPS = 4  # prefixes after one another
_LEVELS = 6  # of containers within one another
_MOST = 200_000  # tensors of a network, and modules
_MOST_WAYS = 200  # to translate names
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|hyper_parameters|callbacks|loops", re.IGNORECASE)
_COUNTERS = {"n_averaged"}  # of torch's AveragedModel, which is no part of the network
_OLD_DENSENET = re.compile(r"\.(norm|relu|conv)\.([12])\.")  # a name must not have a dot within, since torch 0.4

Kind = tuple[bool, tuple[int, ...]]  # whether complex, shape
Names = dict[str, str]  # as the network calls a tensor → as the file does


@dataclass(frozen=True)
class Candidate:
    """Tensors of a file that may be a network's."""

    path: tuple[str, ...]  # of keys; empty: the file itself
    tensors: Mapping[str, Any]  # name → place
    metadata: Mapping[str, Any] = field(default_factory=dict)  # torch's versions of the modules, by their names
    prefix: str = ""  # what the user said that the names begin with

    @property
    def title(self) -> str:
        return ".".join([*self.path, *([self.prefix.rstrip(".")] if self.prefix else [])])


@dataclass(frozen=True)
class Wanted:
    """The tensors of a network: all of them, and those that it needs from a file."""

    kinds: Mapping[str, Kind]
    needed: frozenset[str]
    in_files: Mapping[str, str] = field(default_factory=dict)  # name in the files of its library → in the network

    def fits(self, name: str, place: Any) -> bool:
        """Whether a tensor of a file has the right shape; the colours of a first layer can be added up for gray images."""
        mine, theirs = self.kinds[name], kind(place)
        return mine == theirs or for_gray(mine, theirs)


@dataclass(frozen=True)
class Match:
    """How a candidate's names are translated."""

    candidate: Candidate
    names: Names  # of all its tensors; those that the network does not have are its own
    removed: tuple[str, ...]  # from the beginnings of its names
    fitting: frozenset[str]  # needed tensors that it has
    full: bool  # it has all that are needed

    def title(self, path: str) -> str:
        """Where the tensors come from, for people."""
        inside = self.candidate.title
        without = f"without {join_names(self.removed)} before the names" if self.removed else ""
        more = ", ".join(part for part in (inside and f"its {truncate(inside, 200)}", without) if part)
        return f"{path} ({more})" if more else path


def kind(value: Any) -> Kind:
    """Of a tensor, or of its place in a file."""
    if isinstance(value, torch.Tensor):
        return value.is_complex(), tuple(value.shape)
    return value.is_complex, tuple(value.shape)


def for_gray(mine: Kind, theirs: Kind) -> bool:
    """Whether a layer for three colours can serve a network for gray images."""
    a, b = mine[1], theirs[1]
    return len(a) == 4 and len(b) == 4 and (a[1], b[1]) == (1, 3) and (a[0], *a[2:]) == (b[0], *b[2:])


def networks(content: Any) -> list[Candidate]:
    """Everything in a file that may be the tensors of a network."""
    return [*_networks(content, (), set())]


def _networks(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[Candidate]:
    entries = entries_of(value)
    if not entries or id(value) in seen or len(path) > _LEVELS:
        return
    seen.add(id(value))
    if isinstance(value, Thing) and isinstance(entries.get("_modules"), dict):  # a whole network was saved
        yield Candidate(path, _of_modules(value))
        return
    if "param_groups" in entries:  # an optimizer
        return
    tensors = {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Place) and k not in _COUNTERS}
    if 0 < len(tensors) <= _MOST:
        yield Candidate(path, tensors, getattr(value, "_metadata", {}))
    for key, inner in entries.items():
        if isinstance(key, str) and not isinstance(inner, Place) and not _NO_WEIGHTS.search(key):
            yield from _networks(inner, (*path, key), seen)


def _of_modules(network: Any) -> Nested:
    """The state_dict of a network that was saved as a Python object, which is never made; nothing of one with endless modules."""
    found: Nested = {}
    rest = [("", network)]
    for _ in range(_MOST):
        if not rest:
            return found
        prefix, module = rest.pop()
        entries = entries_of(module)
        passing = entries.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for name, place in entries_of(entries.get(group)).items():
                if isinstance(place, Place) and not (
                    group == "_buffers" and isinstance(passing, list) and name in passing
                ):
                    found[f"{prefix}{name}"] = place
        if len(prefix) < 2000:
            inner = entries_of(entries.get("_modules"))
            rest += [(f"{prefix}{name}.", inner[name]) for name in reversed(inner)]
    return {}


def at(content: Any, key: str, path: str) -> Candidate:
    """The tensors under ``model.init_key``: keys of containers, then what the names begin with.

    Raises:
        CheckpointError: there are none; the message says what there is.
    """
    here, steps, rest = content, [], key.strip(".")
    while rest:
        entries = entries_of(here)
        inside = [k for k in entries if isinstance(k, str) and f"{rest}.".startswith(f"{k}.")]
        inside = [k for k in inside if not isinstance(entries[k], Place)]
        if not inside:
            break
        step = max(inside, key=len)
        here, rest = entries[step], rest[len(step) + 1 :]
        steps.append(step)
    found = [c for c in networks(here) if not c.path]
    prefix = f"{rest}." if rest else ""
    tensors = {k[len(prefix) :]: v for k, v in found[0].tensors.items() if k.startswith(prefix)} if found else {}
    if not tensors:
        there = sorted({c.title or name.partition(".")[0] for c in networks(content) for name in c.tensors})
        raise CheckpointError(
            f"model.init_key: there are no tensors under {truncate(key, 200)} in {truncate(path)}. There are: "
            f"{join_names(there[:20]) or 'none'}."
        )
    metadata = {k[len(prefix) :]: v for k, v in found[0].metadata.items() if k.startswith(prefix)}
    return Candidate(tuple(steps), tensors, metadata, prefix)


def chosen(candidates: Sequence[Candidate], wanted: Wanted, load: Callable[[Any], torch.Tensor], path: str) -> Match:
    """The candidate whose tensors the network needs.

    Raises:
        CheckpointError: several fit alike, or each fits in part.
    """
    matches = [match(c, wanted, path) for c in candidates]
    full = [m for m in matches if m.full and m.fitting]
    if len(full) > 1 and all(_same(full[0], other, load) for other in full[1:]):
        return full[0]
    fitting = full or [m for m in matches if m.fitting]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        count = len(wanted.needed)
        shown = join_names(
            [f"{m.candidate.title or 'the file itself'} ({len(m.fitting)} of {count} tensors)" for m in fitting]
        )
        alike = "fit" if full else "fit in part, none wholly"
        keys = " or ".join(f"model.init_key={m.candidate.title}" for m in fitting if m.candidate.title)
        raise CheckpointError(
            f"{truncate(path)} holds several networks that {alike}: {truncate(shown, 1000)}. None is taken by guess. Say which one is "
            f"meant: {truncate(keys, 500)}{'' if full else ', with model.init_strict=false; or save them as one state_dict'}."
        )
    return max(matches, key=lambda m: len(m.candidate.tensors))


def _same(one: Match, other: Match, load: Callable[[Any], torch.Tensor]) -> bool:
    """Whether two matches are the same numbers."""
    a, b = one.candidate.tensors, other.candidate.tensors
    return one.fitting == other.fitting and all(
        torch.equal(load(a[one.names[n]]), load(b[other.names[n]])) for n in one.fitting
    )


def match(candidate: Candidate, wanted: Wanted, path: str) -> Match:
    """The translation of a candidate's names by which most of the needed tensors fit, with the fewest changes.

    Raises:
        CheckpointError: two translations fit alike.
    """
    found = [
        Match(candidate, names, removed, fitting, fitting == wanted.needed)
        for removed, names in _translations(candidate.tensors, wanted)
        for fitting in [
            frozenset(n for n in wanted.needed if n in names and wanted.fits(n, candidate.tensors[names[n]]))
        ]
    ]
    most = max(len(m.fitting) for m in found)
    best = [m for m in found if len(m.fitting) == most]
    fewest = min(len(m.removed) for m in best)
    best = [m for m in best if len(m.removed) == fewest]
    if most and any({n: m.names[n] for n in m.fitting} != {n: best[0].names[n] for n in best[0].fitting} for m in best):
        inside = f"{candidate.title}." if candidate.title else ""
        keys = " or ".join(f"model.init_key={inside}{''.join(m.removed).rstrip('.')}" for m in best)
        raise CheckpointError(
            f"{truncate(path)} holds several networks that fit alike, by the beginnings of the names of their tensors. None is taken by "
            f"guess. Say which one is meant: {truncate(keys, 500)}."
        )
    return best[0]


def _translations(tensors: Mapping[str, Any], wanted: Wanted) -> Iterator[tuple[tuple[str, ...], Names]]:
    """(what is removed, names) of each way to remove prefixes from the names of a file, and with those that the network itself has
    put before them."""
    identity = {name: name for name in tensors}
    ways: list[tuple[tuple[str, ...], Names]] = [((), identity)]
    seen = [identity]
    for removed, names in ways:  # it grows
        for prefix in PREFIXES if len(removed) < _STEPS and len(ways) < _MOST_WAYS else ():
            shorter = {n.removeprefix(prefix): own for n, own in names.items()}
            if len(shorter) == len(names) and shorter not in seen:
                seen.append(shorter)
                ways.append(((*removed, prefix), shorter))
    for removed, names in ways[:]:
        for renamed in _renamed(names, wanted):
            if renamed not in seen:
                seen.append(renamed)
                ways.append((removed, renamed))
    yield from ways
    for prefix in PREFIXES:
        if wanted.kinds and all(n.startswith(prefix) for n in wanted.kinds):
            yield from ((removed, {f"{prefix}{n}": own for n, own in names.items()}) for removed, names in ways)


def _renamed(names: Names, wanted: Wanted) -> Iterator[Names]:
    """The same with the names that libraries change when they read their files."""
    for renamed in (
        {wanted.in_files.get(n, n): own for n, own in names.items()},
        {_OLD_DENSENET.sub(r".\1\2.", n): own for n, own in names.items()},
    ):
        if len(renamed) == len(names):
            yield renamed


def under_other_names(candidate: Candidate, wanted: Wanted) -> list[str]:
    """Beginnings of the names of a candidate under which all needed tensors are."""
    parts = {name[: i + 1] for name in candidate.tensors for i, letter in enumerate(name) if letter == "."}
    return sorted(
        prefix[:-1]
        for prefix in parts
        if wanted.needed
        and all(
            f"{prefix}{n}" in candidate.tensors and wanted.fits(n, candidate.tensors[f"{prefix}{n}"])
            for n in wanted.needed
        )
    )
