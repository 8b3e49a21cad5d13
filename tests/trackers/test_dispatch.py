"""The trackers of a sweep: each branch is brought up to date while it runs, and not once more when the sweep ends."""

from __future__ import annotations

from raysweep.events import BranchEnded, BranchEvent, EpochDone, ExperimentFinished, ExperimentStarted
from raysweep.store import layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.trackers import base as trackers
from raysweep.trackers import snapshot
from raysweep.trackers.dispatch import dispatching
from raysweep.trackers.tensorboard import Tracker
from tests.store.test_sweep import branch_folder
from tests.trackers.tracking import event_files


def ended(root, name, *, kill=False) -> Experiment:
    made = branch_folder(root, "s_20260102_030405", name, 0.5)
    (made.folder / layout.HISTORY_CSV).write_text("train_loss,val_acc,epoch\n1.0,0.5,1\n")
    if kill:
        (made.folder / layout.LINEAGE).write_text("")
        lineage.record(made.folder, lineage.START)
    return made


EPOCH, END = EpochDone(1, {}, True, 0.0, 0.0), BranchEnded("finished")


def tell(dispatcher, made, *events):
    for event in (ExperimentStarted(made.id, str(made.folder), 0), *events):
        dispatcher(BranchEvent(made.id, event))


def test_a_branch_that_ended_up_to_date_is_not_read_again_at_the_end(tmp_path, monkeypatch):
    read = []
    original = snapshot.read
    monkeypatch.setattr(snapshot, "read", lambda folder: read.append(folder.name) or original(folder))
    whole, killed, before = ended(tmp_path, "a"), ended(tmp_path, "b", kill=True), ended(tmp_path, "c")
    with dispatching(lambda event: None) as dispatcher:
        tell(dispatcher, whole, EPOCH, ExperimentFinished(), END)
        assert dispatcher.sections == {}
        tell(dispatcher, killed, EPOCH)
        for made in (whole, killed, before):
            dispatcher.ended(made)
            dispatcher.ended(made)
        read.clear()
    assert sorted(read) == [killed.id, before.id]
    for made in (whole, killed, before):
        assert len(event_files(made.folder)) == 1


def test_a_branch_whose_board_failed_is_tried_once_more(tmp_path, monkeypatch):
    made = ended(tmp_path, "a")
    tries = []
    original = Tracker.sync

    def sync(self, current):
        tries.append(current.status)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        original(self, current)

    monkeypatch.setattr(Tracker, "sync", sync)
    assert not trackers.asked_for(snapshot.section(made.config()))
    with dispatching(lambda event: None) as dispatcher:
        tell(dispatcher, made, END)
    assert tries == ["finished", "finished"]
    assert lineage.read(made.folder)[-1].fields["text"].endswith("it is up to date again")
