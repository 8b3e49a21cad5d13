"""What was read of the images is told by --dry-run, by the terminal, in JSON and in the log."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from raysweep.store import layout, lineage
from raysweep.store.experiment import Experiment
from tests.cli.test_errors import run_cli
from tests.conftest import draw_classes

TOLD = "Cropped to the middle: 1 image, which loses 75 % of its area."
FEW = (
    "Few validation images: cat (4), dog (5). One image is up to 25 points of its recall, so small differences of these "
    "mean nothing."
)
HIDDEN = "Left out: 1 hidden or system file (dog/.hidden.png)."


def test_a_cropped_image_is_told_everywhere(tmp_path, monkeypatch, capsys, without_ray):
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("raysweep.report.figures.write_all", lambda experiment: None)
    draw_classes(tmp_path / "d", {"cat": 9, "dog": 9}, size=8)
    Image.fromarray(np.zeros((8, 32), np.uint8)).save(tmp_path / "d" / "dog" / "wide.png")
    (tmp_path / "d" / "dog" / ".hidden.png").write_bytes(b"x")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{path: {tmp_path / 'd'}, image_size: 8}}\nmodel: {{name: cnn, options: {{widths: [4, 4, 8, 8]}}}}\n"
        "training: {epochs: 1, batch_size: 8, augment: {crop_padding: 0}}\nscaling: {num_workers: 0, threads: 1}\n"
        f"root: {tmp_path / 'experiments'}\nexperiment: {{name: small}}\n"
    )
    for _ in range(2):  # also where the cache was made before
        code, _, err = run_cli(capsys, "run", config, "--dry-run")
        assert code == 0, err
        assert [err.splitlines().count(line) for line in (HIDDEN, TOLD, FEW)] == [1, 1, 1]
    code, out, _ = run_cli(capsys, "run", config, "--dry-run", "--json")
    reading = json.loads(out)["reading"]
    assert reading["cropped"] == {"images": 1, "mean_percent": 75.0, "most_percent": 75.0, "most_of": "dog/wide.png"}
    assert sum(reading["validation"].values()) == json.loads(out)["validation_images"]
    code, out, err = run_cli(capsys, "run", config)
    assert code == 0, err
    assert err.splitlines().count(TOLD) == 1
    experiment = Experiment(out.strip())
    assert lineage.read(experiment.folder)[0].fields["reading"] == [HIDDEN, TOLD, FEW]
    assert TOLD in (experiment.folder / layout.CHANGES).read_text()
