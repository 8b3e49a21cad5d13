"""The sheet of ``show --augmented``: exactly what the training was given, of every class in turn."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.errors import UntrustedError
from tests.cli.test_errors import run_cli
from tests.training.test_batches import ALL

GIVEN = {"epochs": 2, "batch_size": 100, "augment": ALL}


@pytest.fixture
def seen(monkeypatch):
    """(epoch, position) → (the image as the network got it, the share of the image itself), of every training in this test."""
    from raysweep.training.augmentation.batches import Batches

    found = {}
    batch = Batches.batch

    def recorded(self, epoch, order, moves, positions, bounds):
        made = batch(self, epoch, order, moves, positions, bounds)
        x = (made.x / self.feed.scale + self.feed.mean).round().clamp(0, 255).numpy().astype(np.uint8)
        for i, position in enumerate(positions.tolist()):
            share = 1.0 if made.mixed is None else float(made.mixed.share[i])
            found[epoch, position] = x[i].transpose(1, 2, 0).copy(), share
        return made

    monkeypatch.setattr(Batches, "batch", recorded)
    return found


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, instead of the picture."""
    from raysweep.report import sheet

    cells = []
    monkeypatch.setattr(sheet, "png", lambda found, title: cells.append((list(found), title)) or b"PNG")
    return cells


@pytest.mark.parametrize("views", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_it_shows_what_the_training_was_given(quick_run, seen, drawn, tmp_path, capsys, views):
    made = quick_run(training=GIVEN, sampling={"samples_per_epoch": 300}, data={"views": views})
    given = dict(seen)
    assert len(given) == 600
    for reference, epoch in ((made.id, 1), (f"{made.id}@2", 2)):
        seen.clear()
        code, out, err = run_cli(
            capsys, "show", reference, "--augmented", 25, "-o", tmp_path / "a.png", "--root", tmp_path / "experiments"
        )
        assert code == 0, err
        assert out.strip() == str(tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes() == b"PNG"
        cells, title = drawn.pop()
        assert title.startswith(f"{made.id}, epoch {epoch}:")
        assert len(cells) == len(seen) == 25
        assert len({key[1] for key in seen}) == 25
        for key, (image, share) in seen.items():
            assert key[0] == epoch
            assert np.array_equal(image, given[key][0])
            assert share == given[key][1]
        shown = [image for image, _ in given.values()]
        assert all(any(np.array_equal(cell.after, image) for image in shown) for cell in cells)
        of_class = [cell.text.split(", ")[0].split(" ")[-1] for cell in cells]
        assert [of_class.count(c) for c in "0123456789"] == [3] * 5 + [2] * 5
        assert of_class == sorted(of_class)
        mixed = [cell.text for cell in cells if "%" in cell.text]
        assert len(mixed) > 10
        assert all(sum(int(part.split("%")[0]) for part in text.split(", ")) in (99, 100, 101) for text in mixed)


def test_the_picture_is_a_png_of_pairs(quick_run, tmp_path, capsys):
    from PIL import Image

    quick_run(training={"epochs": 1})
    code, _, err = run_cli(
        capsys, "show", "small", "--augmented", 7, "-o", tmp_path / "a.png", "--root", tmp_path / "experiments"
    )
    assert code == 0, err
    assert "On the left of each pair" in err
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200


def test_own_code_gets_the_generator_of_its_part_and_runs_only_where_its_user_made_the_experiment(
    project, quick_run, seen, drawn, tmp_path, capsys, monkeypatch
):
    project(
        mine="import torch\ndef noise(images, generator):\n    return images + 0.2 * torch.rand(images.shape, generator=generator)\n"
    )
    made = quick_run(
        training={"epochs": 1, "augment": {"own": "python:mine:noise"}}, sampling={"samples_per_epoch": 450}
    )
    given = dict(seen)
    seen.clear()
    where = ("--root", tmp_path / "experiments")
    code, _, err = run_cli(capsys, "show", made.id, "--augmented", 12, "-o", tmp_path / "a.png", *where)
    assert code == 0, err
    assert seen
    assert all(np.array_equal(image, given[key][0]) for key, (image, _) in seen.items())
    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "of nobody"))
    from raysweep.store.root import Root
    from raysweep.tools import augmented

    with pytest.raises(UntrustedError, match="python:mine:noise"):
        augmented.picture(Root.open(tmp_path / "experiments"), made.id, 5)


REFUSED = [
    (("--augmented", 0), "a sheet has 1 to 400 images"),
    (("--augmented", 401), "a sheet has 1 to 400 images"),
    (("--augmented", 5, "-o", "a.jpg"), "give a name that ends in .png"),
    (("--augmented", 5, "-o", "no/such/folder/a.png"), "cannot be written"),
    (("-o", "a.png"), "give --augmented N, too"),
]


def test_what_cannot_be_drawn_is_said(quick_run, drawn, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick_run(training={"epochs": 1})
    for words, message in REFUSED:
        code, _, err = run_cli(capsys, "show", "small", *words, "--root", tmp_path / "experiments")
        assert code == 2
        assert message in err
        assert not list(tmp_path.glob("*.png"))


def test_images_that_are_gone_or_others_are_not_guessed(quick_run, drawn, tmp_path, capsys, monkeypatch):
    made = quick_run(training={"epochs": 1})
    root = tmp_path / "experiments"
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as away:
        away.setenv("RAYSWEEP_CACHE", str(tmp_path / "empty"))
        code, _, err = run_cli(capsys, "show", made.id, "--augmented", 5, "--root", root)
    assert code != 0
    assert f"raysweep evaluate {made.id}@latest" in err
    monkeypatch.setattr("raysweep.data.sampling.order_hash", lambda order: "another")
    code, _, err = run_cli(capsys, "show", made.id, "--augmented", 5, "--root", root)
    assert code != 0
    assert "another order than epoch 1 had" in err
