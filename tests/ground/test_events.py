"""Events travel between processes: every kind can be packed, small, and none can be changed on the way."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import typing

import pytest

from raysweep import events
from raysweep.errors import Interrupted, NonFiniteLossError
from raysweep.events import BatchDone, BranchEvent, Note, RankFailed, opened

KINDS = typing.get_args(events.Event) + typing.get_args(events.RankEvent)
VALUES = {"int": 3, "float": 0.5, "bool": True, "str": "text", "str | None": None, "int | None": None}
VALUES["float | None"] = 2.5
VALUES["tuple[tuple[float, ...], ...]"] = ((1e-3, 1e-5), (1e-5, 1e-3, 1e-5))


def example(kind: type) -> object:
    """One event of a kind, its plain fields filled in."""
    own = {"event": Note("x"), "row": {"a": 1.0}, "branches": (), "notes": (), "status": "failed", "actor": None}
    own["error"] = Interrupted("stopped", "SIGTERM")
    return kind(**{f.name: own[f.name] if f.name in own else VALUES[str(f.type)] for f in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_a_frozen_record_that_says_who_sends_it_and_can_be_packed(kind):
    event = example(kind)
    again = pickle.loads(pickle.dumps(event))
    if kind is RankFailed:  # errors are equal only to themselves
        assert (str(again.error), again.error.reason) == ("stopped", "SIGTERM")
        again = dataclasses.replace(again, error=event.error)
    assert again == event
    assert not hasattr(event, "__dict__")
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")  # as dataclasses write it where nobody does
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, None)


def test_every_record_of_the_module_belongs_to_a_union():
    found = {v for v in vars(events).values() if dataclasses.is_dataclass(v)}
    assert found == {*KINDS, events.PlannedBranch}


def test_an_event_takes_little_room_on_its_way():
    assert len(pickle.dumps(BranchEvent("angry5_sad0.5-seed2", BatchDone(12, 120, 1200, 0.123, 4567.8)))) < 200


def test_an_error_of_a_rank_arrives_as_what_it_is():
    error = pickle.loads(pickle.dumps(RankFailed(1, NonFiniteLossError("words"), fatal=True))).error
    assert type(error) is NonFiniteLossError
    assert str(error) == "words"


def test_an_event_of_a_branch_is_opened():
    assert opened(BranchEvent("b", Note("x"))) == ("b", Note("x"))
    assert opened(Note("x")) == (None, Note("x"))


def test_the_module_needs_nothing_but_the_standard_library():
    code = "import sys, raysweep.events; print([m for m in ('torch', 'ray', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
