"""Whose experiment it is: the record outside the root, trusted roots, the question, and what other processes are told."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import pytest

from raysweep.config import foreign
from raysweep.errors import UntrustedError
from raysweep.store import trust as trusting
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Origin, Trust

MODEL = {"model": {"name": "python:os:system", "options": {"command": "touch /tmp/x"}}}


@pytest.fixture
def origin(tmp_path, state) -> Origin:
    folder = tmp_path / "root" / "e_1"
    folder.mkdir(parents=True)
    return Origin(folder / "x.pt", folder, Root.open(tmp_path / "root"), ("e_1", "sweep_1"))


def refused(origin: Origin, settings=MODEL, trust: Trust = NOBODY, **options) -> bool:
    try:
        trusting.settle(trust, origin, settings, **options)
    except UntrustedError:
        return True
    return False


def test_nothing_is_asked_and_recorded_where_nothing_is_named(origin, state):
    assert not refused(origin, {"model": {"name": "cnn", "options": {}}})
    assert trusting.remember_made("e_1", {"model": {"name": "cnn"}}) is None
    assert not state.exists()


def test_the_refusal_says_what_is_wanted_and_how_to_say_yes(origin, state):
    with pytest.raises(UntrustedError) as error:
        trusting.settle(NOBODY, origin, MODEL)
    text = str(error.value)
    assert text.startswith(
        f"{origin.path} wants to run the Python function python:os:system with the options command='touch /tmp/x'"
    )
    assert "no record that you made e_1 on this machine" in text
    assert "--trust (in Python: trust=True)" in text
    assert """model.name=python:os:system 'model.options.command="touch /tmp/x"'.""" in text
    assert "\n" not in text
    assert not state.exists()


def test_what_this_user_made_runs_as_long_as_it_is_what_was_made(origin, state):
    assert trusting.remember_made("e_1", MODEL) is None
    assert not refused(origin)
    assert refused(origin, {"model": {**MODEL["model"], "options": {"command": "touch /tmp/y"}}})
    other = Origin(origin.path, origin.folder, origin.root, ("other",))
    assert refused(other)
    assert (state / "made").stat().st_mode & 0o077 == 0


def test_a_branch_is_known_by_its_sweep(origin):
    trusting.remember_made("sweep_1", MODEL)
    assert not refused(origin)


def test_a_yes_counts_for_ever(origin):
    questions = []

    def yes(text):
        questions.append(text)
        return True

    assert refused(origin, trust=Trust(ask=lambda text: False))
    assert not refused(origin, trust=Trust(ask=yes))
    assert not refused(origin, trust=Trust(ask=yes))
    assert len(questions) == 1
    assert "python:os:system" in questions[0]
    assert not refused(origin)


def test_trust_on_the_command_line_is_remembered(origin):
    assert not refused(origin, trust=Trust(given=True))
    assert not refused(origin)


def test_what_the_user_says_anew_needs_no_record(origin, state):
    assert not refused(origin, overrides=MODEL)
    assert not refused(origin, overrides={"model": {"name": "cnn", "options": {}}})
    assert refused(origin, overrides={"model": {"name": "python:os:system"}})
    assert not state.exists()


def test_what_is_the_users_stays_so_where_the_user_changes_it(origin):
    trusting.remember_made("e_1", MODEL)
    assert not refused(origin, overrides={"model": {"options": {"command": "other"}}})


@pytest.mark.parametrize("listed", ["{root}", "{parent}", "/nowhere:{root}/", "s3://b/p:{root}", " : {root}"])
def test_a_root_that_the_user_takes_as_own(origin, monkeypatch, listed):
    text = listed.format(root=origin.root.path, parent=origin.root.path.parent)
    monkeypatch.setenv("RAYSWEEP_TRUST", text.strip(" :"))
    assert not refused(origin)


@pytest.mark.parametrize("listed", ["", ":", "{root}x", "{root}/e_2", "s3://b/root"])
def test_another_root_is_not(origin, monkeypatch, listed):
    monkeypatch.setenv("RAYSWEEP_TRUST", listed.format(root=origin.root.path))
    assert refused(origin)


def test_a_link_that_leads_out_of_a_trusted_root_is_not_trusted(origin, monkeypatch, tmp_path):
    monkeypatch.setenv("RAYSWEEP_TRUST", str(origin.root.path))
    (tmp_path / "outside").mkdir()
    link = origin.root.path / "linked"
    link.symlink_to(tmp_path / "outside")
    assert refused(Origin(link, link, origin.root, ("linked",)))


def test_a_record_inside_the_root_does_not_count(origin, monkeypatch):
    monkeypatch.setenv("RAYSWEEP_STATE", str(origin.root.path / "state"))
    trusting.remember_made("e_1", MODEL)
    assert refused(origin)


def test_the_record_follows_xdg_and_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("RAYSWEEP_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert trusting.state_folder() == tmp_path / "raysweep"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trusting.state_folder() == tmp_path / ".local" / "state" / "raysweep"


def test_a_record_that_cannot_be_written_is_told_and_stops_nothing(origin, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "file"))
    assert "RAYSWEEP_STATE" in str(trusting.remember_made("e_1", MODEL))
    assert refused(origin)
    assert not refused(origin, trust=Trust(given=True))


def test_another_process_gets_the_decision_and_nothing_else(origin, monkeypatch, tmp_path):
    trusting.remember_made("e_1", MODEL)
    there = pickle.loads(pickle.dumps(Trust(given=True, ask=print).handed_on(MODEL)))
    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "of another node"))
    assert not refused(origin, trust=there)
    assert refused(origin, {"model": {"name": "python:evil:f"}}, trust=there)
    assert there.ask is None
    assert not os.path.exists(tmp_path / "of another node")


def test_places_need_the_same(origin):
    settings = {"scaling": {"address": "1.2.3.4:6379"}}
    assert not refused(origin, settings)
    assert refused(origin, settings, kinds=[foreign.places])
    assert not refused(origin, settings, kinds=[foreign.places], overrides={"scaling": {"address": "auto"}})
    assert not refused(origin, settings, kinds=[foreign.places], overrides={"scaling": {"address": None}})
    trusting.remember_made("e_1", settings)
    assert not refused(origin, settings, kinds=[foreign.places])


def test_the_folder_of_the_code_is_part_of_what_is_approved(origin, state):
    model = {"name": "python:nets:make", "options": {}}
    trusting.remember("mine", foreign.code({"model": {**model, "path": "/home/me/project"}}))
    mine = replace(origin, ids=("mine",))
    trusting.settle(Trust(), mine, {"model": {**model, "path": "/home/me/project"}})
    for path in (None, "/shared/evil"):
        with pytest.raises(UntrustedError, match="nets:make") as found:
            trusting.settle(Trust(), mine, {"model": {**model, "path": path}})
    assert "from the folder /shared/evil" in str(found.value)
    assert "model.path=/shared/evil" in str(found.value)
    named = {"model": {"name": "python:nets:make"}}
    with pytest.raises(UntrustedError):  # the name alone says nothing of a stranger's folder
        trusting.settle(Trust(), mine, {"model": {**model, "path": "/shared/evil"}}, named)
    trusting.settle(
        Trust(), mine, {"model": {**model, "path": "/x"}}, {"model": {"name": "python:nets:make", "path": "/x"}}
    )
