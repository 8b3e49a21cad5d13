"""The notebook and the page of the Python interface: their code runs, from a training to a verdict.

By default in this process, with a tiny network and a sweep that was made without training; the slow test executes the notebook itself.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.report.making import sweep_of
from tests.test_readme import blocks

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
SMALL = {
    "model": {"name": "cnn", "options": {"widths": [4, 4, 8, 8]}},
    "training": {"batch_size": 200},
    "sampling": {"samples_per_epoch": 200},
    "scaling": {"num_workers": 0, "threads": 1},
}


def cells(path: Path) -> list[str]:
    """The code of a notebook."""
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.fixture
def small(tmp_path, monkeypatch, without_ray):
    """In an empty folder, ``run`` trains a tiny network, and ``branch`` returns a sweep that was made without training."""
    import raysweep
    from raysweep.api import training
    from raysweep.config import load
    from raysweep.data.faces import CLASSES
    from tests.report.making import no_curves
    from tests.tools.evaluating import draw_nothing

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSWEEP_ROOT", raising=False)
    draw_nothing(monkeypatch)
    no_curves(monkeypatch)
    settings_of, branched = training.settings_of, []

    def smaller(config: Any, data: Any, more: Any) -> Any:
        own = {"model": more["model"]} if "model" in more else {}
        return settings_of(config, data, load.merge(more, {**SMALL, **own}))

    def branch(start: Any, grid: Any, *, name: str) -> Any:
        from raysweep.config import grid as grids

        grids.check(grid)
        branched.append(start)
        branches = {
            "disgust-5": ({"disgust": 5.0}, (0.6, 0.9, *[0.6] * 5)),
            "fear-2": ({"fear": 2.0}, (0.6, 0.5, 0.7, *[0.6] * 4)),
        }
        made = sweep_of(Path("made"), CLASSES, [0.6] * 7, branches, images=[20] * 7)
        for folder in Path("made").iterdir():
            if folder.name != "sweeps":
                folder.rename(Path("experiments") / folder.name)
        (Path("experiments") / "sweeps").mkdir()
        made.folder.rename(Path("experiments") / "sweeps" / f"{name}_20260102_030405")
        return raysweep.get_sweep(name)

    monkeypatch.setattr(training, "settings_of", smaller)
    monkeypatch.setattr(raysweep, "branch", branch, raising=False)
    return branched


def test_there_is_a_notebook():
    assert [p.name for p in NOTEBOOKS] == ["first_sweep.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_kept_without_outputs_and_places(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text())
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_the_code_of_a_notebook_runs_in_small(path, small, run_cells, capsys):
    import raysweep

    *every, last = cells(path)
    run_cells(*every, "assert experiment.predict(faces).labels and comparison.verdict and own.best.epoch == 1")
    assert [c.reference.split("@")[1] for c in small] == ["1"]
    assert Path("report.html").is_file()
    with pytest.raises(raysweep.NotFoundError):
        run_cells("import raysweep", last)


def test_the_examples_of_the_page_run_in_small(small, capsys):
    import raysweep

    names: dict[str, Any] = {}
    for number, body in enumerate(blocks((DOCS / "python.md").read_text(encoding="utf-8"), "python")):
        exec(compile(body, f"python.md, example {number}", "exec"), names)
    assert "no such experiment" in capsys.readouterr().out
    assert names["child"].weights["disgust"] == 3.0
    assert [row["epoch"] for row in names["history"].reset_index().to_dict("records")] == [1, 2]
    assert set(names["result"].to_pandas()["metric"]) >= {"accuracy", "recall"}
    assert isinstance(names["comparison"], raysweep.Comparison)


def test_the_page_names_every_function():
    import raysweep

    page = (DOCS / "python.md").read_text(encoding="utf-8")
    functions = [n for n in raysweep.__all__ if n.islower()]
    assert [
        n for n in functions if f"`{n}" not in page and n not in ("create_experiment_config", "run_experiment")
    ] == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_runs_in_jupyter(path, tmp_path, state):
    """In a kernel, with Ray: each cell that trains has one output that moves, and the error is short."""
    if importlib.util.find_spec("nbclient") is None:
        pytest.fail("nbclient is not installed: pip install -e '.[test]'")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=1700, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code)
    for cell in code:
        kinds = [o.output_type for o in cell.outputs]
        assert kinds.count("stream") == 0, cell.outputs
        if re.search(r"raysweep\.(run|branch)\(", cell.source):
            bar, shown = cell.outputs
            assert bar.output_type == "display_data"
            assert "<svg" in bar.data["text/html"]
            assert "<progress" not in bar.data["text/html"]
            assert "raysweep-card" in shown.data["text/html"]
    (error,) = code[-1].outputs
    assert len("\n".join(error.traceback)) < 1000
    assert error.traceback[-1].startswith("NotFoundError: ")
    assert (tmp_path / "report.html").is_file()
