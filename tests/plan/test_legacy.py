"""Experiments of the old system: listed, shown, resumed where they lie, branched, and imported; never changed."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import shlex
from pathlib import Path

import pytest

from raysweep.errors import CheckpointError, InputError, NotFoundError
from raysweep.launch import run as launching
from raysweep.plan import child
from raysweep.plan import parent as parents
from raysweep.plan.upgrade import Source, upgrade
from raysweep.store import catalog, checkpoint, layout, resolve
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.store.untrusted import schema
from raysweep.tools import import_legacy
from tests.cli.test_errors import run_cli
from tests.conftest import weights_hash
from tests.plan import old

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install -e '.[hf]'",
)


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "experiments").mkdir()
    return tmp_path / "experiments"


@pytest.fixture
def folder(root):
    made = old.write(root)
    before = hashes(made)
    yield made
    assert hashes(made) == before  # whatever was done, the original is as it was


def resumed(root: Path, reference: str, images: Path, **options):
    over = {"data": {"path": str(images)}, "scaling": {"num_workers": 0, "threads": 1}} | options.pop("overrides", {})
    classes = options.pop("classes", None)
    parent = parents.read_parent(Root.open(root), reference, over, classes)
    return launching.run(child.plan_child(parent, Root.open(root), overrides=over, **options)).experiment


def test_it_is_listed_and_shown(root, folder, capsys):
    code, out, _ = run_cli(capsys, "list", "--json", "--root", root)
    (row,) = json.loads(out)
    assert (row["status"], row["epochs_done"], row["best_acc"], row["best_epoch"]) == (
        "legacy",
        3,
        pytest.approx(0.6),
        3,
    )
    _, out, _ = run_cli(capsys, "list", "--checkpoints", "--json", "--root", root)
    assert [r["reference"] for r in json.loads(out)] == [
        f"{old.NAME}@1", f"{old.NAME}@2", str(folder / "checkpoint_epoch_2_batch_1.pt"), f"{old.NAME}@3"
    ]  # fmt: skip
    code, out, err = run_cli(capsys, "show", "old_base", "--root", root)
    assert code == 0
    assert "legacy, 3 of 3 epochs" in out
    assert f"raysweep resume --from {old.NAME}@3 data.path=FOLDER" in err
    for which, file in (
        ("2", "checkpoint_epoch_2.pt"),
        ("latest", "checkpoint_epoch_3.pt"),
        ("best", "best_checkpoint.pt"),
    ):
        assert resolve.find_checkpoint(Root.open(root), f"old_base@{which}")[1:] == (None, folder / file)
    with pytest.raises(NotFoundError, match="epochs 1, 2, 3"):
        resolve.find_checkpoint(Root.open(root), "old_base@7")


def test_it_is_resumed_where_it_lies(root, folder, image_folder, without_ray):
    made = resumed(
        root, str(folder / "checkpoint_epoch_3.pt"), image_folder, epochs=2, weights={"dog": 5.0}, name="new"
    )
    config = made.config().to_json()
    assert config["classes"] == list(old.CLASSES)
    assert config["sampling_weights"] == {"eel": 2.0, "cat": 1.0, "dog": 5.0}
    assert config["class_counts"] == {"eel": 10, "cat": 10, "dog": 10}  # sample_per_class
    assert config["parent"] == {
        "experiment": old.NAME, "epoch": 3, "batch": 0, "file": str(folder / "checkpoint_epoch_3.pt"),
        "sha256": hashlib.sha256((folder / "checkpoint_epoch_3.pt").read_bytes()).hexdigest(),
    }  # fmt: skip
    rows = list(csv.DictReader((made.folder / layout.HISTORY_CSV).open()))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4, 5]
    assert [float(r["val_acc"]) for r in rows[:3]] == pytest.approx([0.2, 0.4, 0.6])
    saved = checkpoint.read_checkpoint(made.folder / "checkpoint_epoch_5.pt")
    assert saved["best_acc"] >= 0.6 - 1e-9  # carried over
    assert catalog.summary(made).parent_best_acc == pytest.approx(0.6)
    steps = {float(row["step"]) for row in saved["optimizer_state_dict"]["state"].values()}
    assert steps == {3 * 4 + 2 * 4}  # AdamW goes on; 30 draws in batches of 8, the rest of 6
    log = (made.folder / layout.CHANGES).read_text()
    assert "dog  " in log
    assert "TRAINING_DATA_RATIO_CHANGE" in log
    assert "old system" in log


def test_adamw_goes_on_with_the_moments_of_each_parameter(root, folder, image_folder, without_ray):
    import torch

    made = resumed(root, "old_base@3", image_folder, epochs=1, overrides={
        "data": {"path": str(image_folder)}, "training": {"learning_rate": 1e-12, "weight_decay": 0.0},
        "scaling": {"num_workers": 0, "threads": 1},
    })  # fmt: skip
    before = checkpoint.read_checkpoint(folder / "checkpoint_epoch_3.pt")
    after = checkpoint.read_checkpoint(made.folder / "checkpoint_epoch_4.pt")
    for key, value in before["model_state_dict"].items():
        assert torch.allclose(value, after["model_state_dict"][key], atol=1e-6), key
    names = list(before["model_state_dict"])
    matrices = [n for n in names if before["model_state_dict"][n].ndim > 1]
    mine = matrices + [n for n in names if n not in matrices]
    for i, name in enumerate(mine):  # the squares change by 0.1 % a step
        a = before["optimizer_state_dict"]["state"][names.index(name)]["exp_avg_sq"]
        b = after["optimizer_state_dict"]["state"][i]["exp_avg_sq"]
        assert a.shape == b.shape
        assert torch.allclose(a * 0.999**4, b, rtol=0.2, atol=1e-2), name


def test_from_within_an_epoch_the_epoch_begins_anew(root, folder, image_folder, without_ray):
    made = resumed(root, str(folder / "checkpoint_epoch_2_batch_1.pt"), image_folder, epochs=1)
    rows = list(csv.DictReader((made.folder / layout.HISTORY_CSV).open()))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3]
    assert "its order is drawn anew from its start" in (made.folder / layout.CHANGES).read_text()


def test_the_order_of_the_classes_is_never_guessed(root, folder, image_folder):
    old.tiny_vit(root / "nameless", labelled=False)
    over = {"data": {"path": str(image_folder)}, "model": {"name": f"hf:{root / 'nameless'}"}}
    with pytest.raises(CheckpointError, match=r"did not record the order of its classes.*--classes"):
        parents.read_parent(Root.open(root), "old_base@3", over)
    assert parents.read_parent(Root.open(root), "old_base@3", over, ["dog", "eel", "cat"]).classes == (
        "dog",
        "eel",
        "cat",
    )
    with pytest.raises(CheckpointError, match="3 outputs, but 2 classes"):
        parents.read_parent(Root.open(root), "old_base@3", over, ["dog", "eel"])


def test_what_it_does_not_know_is_asked_for(root, folder, image_folder, monkeypatch):
    with pytest.raises(CheckpointError, match=r"did not record where its images were. Add data.path=FOLDER"):
        parents.read_parent(Root.open(root), "old_base@3")
    os.rename(root / "tiny_vit", root / "elsewhere")
    over = {"data": {"path": str(image_folder)}}
    with pytest.raises(CheckpointError, match=r"which is not there. Say where it is: model.name=hf:FOLDER"):
        parents.read_parent(Root.open(root), "old_base@3", over)
    over["model"] = {"name": f"hf:{root / 'elsewhere'}"}
    assert parents.read_parent(Root.open(root), "old_base@3", over).classes == old.CLASSES
    os.rename(root / "elsewhere", root / "tiny_vit")


def test_what_is_filled_in_is_recorded_with_its_source(root, folder, image_folder):
    parent = parents.read_parent(Root.open(root), "old_base@3", {"data": {"path": str(image_folder)}})
    found = {row.key: (row.value, row.source) for row in parent.filled_in}
    assert found["data.path"] == (str(image_folder), Source.USER)
    assert found["data.classes"] == (list(old.CLASSES), Source.MODEL)
    assert found["training.learning_rate"] == (0.002, Source.CHECKPOINT)
    assert found["sampling.strategy"] == ("multinomial", Source.OLD_SYSTEM)
    assert parent.given == {"data.path": str(image_folder)}
    (note,) = parent.notes
    assert "weight decay no longer applies" in note.text


def test_an_upgraded_checkpoint_has_every_key_of_ours(root, folder, image_folder, quick_run):
    path = folder / "checkpoint_epoch_2_batch_1.pt"
    found = upgrade(checkpoint.read_checkpoint(path), Experiment(folder), path)
    ours = quick_run(training={"epochs": 1})
    mine = checkpoint.read_checkpoint(ours.folder / "checkpoint_epoch_1.pt")
    assert set(mine) - set(found.checkpoint) == {"threads", "conditions", "data_sha256"}  # nobody knows these
    assert found.checkpoint["config"]["settings"] == found.settings
    assert found.settings.keys() == mine["config"]["settings"].keys()
    assert found.position == (3, 1)
    schema.check(found.checkpoint, path)


def test_a_checkpoint_of_ours_stays_as_it_is(quick_run):
    ours = quick_run(training={"epochs": 1})
    path = ours.folder / "checkpoint_epoch_1.pt"
    mine = checkpoint.read_checkpoint(path)
    found = upgrade(mine, ours, path, {"data": {"path": "elsewhere"}})
    assert found.checkpoint is mine
    assert found.settings == mine["config"]["settings"]
    assert (found.filled_in, found.notes) == ((), ())
    with pytest.raises(CheckpointError, match="Leave --classes out"):
        upgrade(mine, ours, path, classes=["cat", "dog"])


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("verb", ["resume", "import"])
def test_a_harmful_copy_is_refused_and_not_run(tmp_path, image_folder, capsys, verb):
    import torch

    root = tmp_path / "harm"
    root.mkdir()
    folder = old.write(root, timestamp=Harm(tmp_path / "was_here"))
    before = set(os.listdir(root))
    if verb == "resume":
        words = ("resume", "--from", folder / "checkpoint_epoch_3.pt")
    else:
        words = ("import", folder)
    code, _, err = run_cli(capsys, *words, f"data.path={image_folder}", "--root", tmp_path / "experiments")
    assert code == 2
    assert "could run code, so it was not loaded" in err
    assert not (tmp_path / "was_here").exists()
    assert set(os.listdir(root)) == before
    assert not list((tmp_path / "experiments").glob("old*"))
    torch.load(folder / "checkpoint_epoch_3.pt", weights_only=False)  # the payload works in a careless reader
    assert (tmp_path / "was_here").exists()


def test_an_imported_copy_is_one_of_ours(root, folder, image_folder, tmp_path, capsys, without_ray):
    import torch

    new = tmp_path / "new"
    made = import_legacy.import_folder(folder, Root.open(new), {"data": {"path": str(image_folder)}})
    assert made.folder == new / old.NAME
    assert json.loads((made.folder / layout.MANIFEST).read_text())["experiment"] == old.NAME
    assert [(e.epoch, e.batch) for e in made.entries()] == [(1, None), (2, None), (3, None)]
    row = catalog.summary(made)
    assert (row.status, row.epochs_done, row.best_epoch) == ("finished", 3, 3)
    assert row.best_acc == pytest.approx(0.6)  # as the old system measured it
    assert row.best_macro_f1 is not None  # evaluated now
    assert run_cli(capsys, "verify", "--root", new)[0] == 0
    mine = checkpoint.read_checkpoint(made.folder / "checkpoint_epoch_3.pt")
    theirs = checkpoint.read_checkpoint(folder / "checkpoint_epoch_3.pt")
    assert all(torch.equal(v, mine["model_state_dict"][k]) for k, v in theirs["model_state_dict"].items())
    plain = torch.load(made.folder / "checkpoint_epoch_3.pt", weights_only=True)  # no numpy scalar is left
    assert plain["history"]["val_acc"] == pytest.approx([0.2, 0.4, 0.6])
    assert "imported_from" in (made.folder / layout.LINEAGE).read_text()
    assert (made.folder / layout.CHANGES).read_text().startswith("EXPERIMENT LOG - old_base\n")
    kid = resumed(new, "old_base@3", image_folder, epochs=1, weights={"dog": 5.0}, name="kid")
    assert run_cli(capsys, "compare", kid.id, "--root", new)[0] == 0
    with pytest.raises(InputError, match="exists already"):
        import_legacy.import_folder(folder, Root.open(new))
    with pytest.raises(InputError, match="written by raysweep itself"):
        import_legacy.import_folder(made.folder, Root.open(tmp_path / "other"))
    with pytest.raises(NotFoundError):
        import_legacy.import_folder(tmp_path, Root.open(tmp_path / "other"))


def test_an_import_without_images_can_be_resumed_with_them(folder, image_folder, tmp_path, capsys, without_ray):
    new = tmp_path / "new"
    code, out, err = run_cli(capsys, "import", folder, "--root", new)
    assert code == 0, err
    assert out.strip() == str(new / old.NAME)
    assert "data.path=FOLDER" in err
    with pytest.raises(CheckpointError, match=r"Add data\.path=FOLDER"):
        parents.read_parent(Root.open(new), "old_base@3")
    assert resumed(new, "old_base@3", image_folder, epochs=1).config().classes == list(old.CLASSES)


def test_an_interrupted_one_is_continued_after_its_import(folder, image_folder, tmp_path, capsys, without_ray):
    (folder / "checkpoint_epoch_3.pt").rename(tmp_path / "3.pt")
    new = tmp_path / "new"
    made = import_legacy.import_folder(
        folder, Root.open(new), {"data": {"path": str(image_folder)}, "scaling": {"num_workers": 0, "threads": 1}}
    )
    assert [(e.epoch, e.batch) for e in made.entries()] == [(1, None), (2, None), (3, 1)]
    assert catalog.summary(made).status == "interrupted"
    code, _, err = run_cli(capsys, "continue", "old_base", "--root", new)
    assert code == 0, err
    assert [e.epoch for e in Experiment(made.folder).entries()] == [1, 2, 3]
    assert catalog.summary(made).status == "finished"
    (tmp_path / "3.pt").rename(folder / "checkpoint_epoch_3.pt")


def test_an_import_into_its_own_root_leaves_the_original_alone(root, folder, capsys):
    code, _, err = run_cli(capsys, "import", folder, "--root", root)
    assert code == 2
    assert "is already in this root, where it stays as it is" in err
    assert "Remove" not in err


def test_what_was_imported_before_does_not_stop_the_others(folder, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    second = old.write(other).rename(other / "second_20250108_143022")
    new = tmp_path / "new"
    assert run_cli(capsys, "import", folder, "--root", new)[0] == 0
    code, out, err = run_cli(capsys, "import", folder, second, "--root", new)
    assert code == 2
    assert out.strip() == str(new / second.name)
    assert "from an earlier import" in err


def test_links_are_not_followed_and_no_line_of_the_log_is_lost(root, tmp_path):
    made = old.write(root)
    (tmp_path / "secret").write_text("TOP SECRET")
    (made / "epoch_1_model.pt").unlink()
    (made / "epoch_1_model.pt").symlink_to(tmp_path / "secret")
    (made / "experiment_changes.log").write_text("EXPERIMENT LOG - old_base\nthe last line without an end")
    copy = import_legacy.import_folder(made, Root.open(tmp_path / "new"))
    assert not (copy.folder / "epoch_1_model.pt").exists()
    assert (copy.folder / "epoch_2_model.pt").exists()
    assert "the last line without an end\n" in (copy.folder / layout.CHANGES).read_text()


@pytest.mark.slow  # quick twin: it is listed and shown
def test_the_report_tells_how_a_child_of_an_old_one_was_made(root, folder, image_folder, capsys, without_ray):
    from raysweep.report import commands

    made = resumed(root, "old_base@3", image_folder, epochs=1, weights={"dog": 5.0}, name="kid")
    words = shlex.split(commands.of_child(made))
    assert words[:4] == ["raysweep", "resume", "--from", str(folder / "checkpoint_epoch_3.pt")]
    code, _, err = run_cli(capsys, *words[1:], "--name", "again")
    assert code == 0, err
    (again,) = root.glob("again_*")
    assert weights_hash(Experiment(again)) == weights_hash(made)


def test_it_is_compared_by_what_it_recorded(root, folder, image_folder, capsys, without_ray):
    made = resumed(root, "old_base@3", image_folder, epochs=1, name="kid")
    kid = made.entries()[-1].metrics
    for words in (("compare", old.NAME, made.id), ("compare", made.id)):
        code, out, err = run_cli(capsys, *words, "--json", "--root", root)
        assert code == 0, err
        found = json.loads(out)
        assert found["classes"] == list(old.CLASSES)
        effects = {(e["target"], e["metric"]): e for e in found["effects"]}
        assert {e["label"] for e in found["effects"]} == {"unknown"}  # no winner is named
        assert effects["(all)", "accuracy"]["reference"] == pytest.approx(0.6)
        assert effects["(all)", "accuracy"]["value"] == pytest.approx(kid["val_acc"])
        assert effects["cat", "recall"]["reference"] == 0.75
        assert effects["(all)", "accuracy"]["low"] is None
        assert any("raysweep import" in n for n in found["notes"])
    code, out, _ = run_cli(capsys, "compare", made.id, "--root", root)
    assert code == 0
    assert out.splitlines()[1].count("?") == 2 + 3
    code, out, _ = run_cli(capsys, "report", made.id, "--root", root)
    assert code == 0
    text = Path(out.strip()).read_text()
    assert "kept no predictions" in text
    assert "nan" not in text.lower()
    (folder / "classification_report.txt").rename(root / "away")
    code, out, _ = run_cli(capsys, "compare", made.id, "--root", root)
    assert code == 0
    assert out.splitlines()[1].split("\t")[3] == "-"
    (root / "away").rename(folder / "classification_report.txt")
