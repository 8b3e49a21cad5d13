"""The house's rules: imports go downwards, reading is light, files stay small, the public names are these."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HEAVY_AT_COLLECTION

PACKAGE = Path(__file__).parents[1] / "raysweep"
ROOMS = ["cli", "launch", "report", "training", "store", "data"]  # from the roof down
GROUND = {
    "config",
    "config_load",
    "config_types",
    "grid",
    "weights",
    "weights_file",
    "errors",
    "events",
    "names",
    "regular",
    "yamlfile",
}
TOP = {"api", "__init__", "schema"}  # front doors: may call any room
HEAVY = ["torch", "ray", "numpy", "pandas", "matplotlib", "pyarrow", "sklearn", "pydantic"]
HEAVY += ["tensorboardX", "mlflow", "wandb", "trackio"]


def floor(parts: tuple[str, ...]) -> int:
    """Height of a module: larger is higher."""
    if parts and parts[0] in ROOMS:
        return 10 * (len(ROOMS) - ROOMS.index(parts[0]))
    return 0 if parts and parts[0] in GROUND else 100


def imports_of(path: Path) -> list[tuple[str, ...]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "raysweep":
            base = tuple(node.module.split(".")[1:])
            found += [(*base, n.name) for n in node.names]
        elif isinstance(node, ast.Import):
            found += [tuple(n.name.split(".")[1:]) for n in node.names if n.name.split(".")[0] == "raysweep"]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    relative = path.relative_to(PACKAGE).with_suffix("").parts
    if len(relative) == 1 and relative[0] in TOP:
        return
    for target in imports_of(path):
        assert floor(target) <= floor(relative), f"{path.name} imports {'.'.join(target)}, which is above it"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_launch_imports_ray_and_files_stay_small(path):
    tree = ast.parse(path.read_text())
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0}
    assert "ray" not in names or "launch" in path.parts
    assert "torch" not in names or not {"report", "data"} & set(path.parts)
    assert len(path.read_text().splitlines()) <= 500
    assert ast.get_docstring(tree), f"{path.name} does not say what it is for"


def heavy_after(code: str, cwd: Path) -> list[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_reading_is_light(tmp_path):
    code = "import raysweep, raysweep.store.catalog, raysweep.store.experiment, raysweep.store.lineage, raysweep.store.checkpoint"
    assert heavy_after(code, tmp_path) == []
    # Typer had better be one that does not import pydantic: that takes longer than all of `raysweep list`.
    listing = "from raysweep.cli.main import main\ntry: main(['list'])\nexcept SystemExit: pass"
    assert heavy_after(listing, tmp_path) == []
    tree = "from raysweep.cli.main import main\ntry: main(['lineage'])\nexcept SystemExit: pass"
    assert heavy_after(tree, tmp_path) == []
    helping = "from raysweep.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert heavy_after(helping, tmp_path) == []


def test_collecting_the_tests_imports_neither_torch_nor_ray(request):
    """Tests import them, and what imports them, inside: else `pytest` takes seconds more before its first test."""
    assert request.config.stash[HEAVY_AT_COLLECTION] == []


def test_a_test_file_that_imports_torch_is_found_out(tmp_path):
    (tmp_path / "torch.py").touch()
    (tmp_path / "test_wrong.py").write_text(
        f"import torch\nfrom {__name__} import test_collecting_the_tests_imports_neither_torch_nor_ray\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "tests.conftest", str(tmp_path)]
    search = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, env=search)
    assert done.returncode == 1, done.stderr
    assert "assert ['torch'] == []" in done.stdout


def test_public_names():
    import raysweep

    assert raysweep.__all__ == [
        "branch",
        "create_experiment_config",
        "list_experiments",
        "load_checkpoint",
        "run_experiment",
    ]
    assert all(callable(getattr(raysweep, n)) for n in raysweep.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        raysweep.nothing  # noqa: B018
