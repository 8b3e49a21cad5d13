"""The rules of the house (ARCHITECTURE.md): imports go downwards and never in a circle, reading is light, files stay small."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HEAVY_AT_COLLECTION

PACKAGE = Path(__file__).parents[1] / "raysweep"
TESTS = Path(__file__).parent
# From the roof down. A file imports only from its own room and from rooms below.
ROOMS = [
    "cli", "ui", "api", "display", "tools", "launch", "plan", "trackers", "training", "report", "cluster", "data", "store", "config",
]  # fmt: skip
GROUND = {"events", "label_sets", "weights", "weights_by_rule", "weights_schedule", "errors"}
GROUND |= {"_text", "_paths", "_machine", "_openmp", "_locks", "_scratch"}
TOP = {"", "__init__", "__main__"}  # the package itself, which loads the API on demand
RAY_ROOMS = {"cluster", "launch"}
HEAVY = ["torch", "ray", "numpy", "pandas", "matplotlib", "pyarrow", "sklearn", "pydantic"]
HEAVY += ["tensorboardX", "mlflow", "wandb", "trackio"]
TERMINAL = ["rich", "typer", "click", "raysweep.cli", "raysweep.display"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "raysweep":
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in FILES else node.module)
        elif isinstance(node, ast.Import):
            found |= {n.name for n in node.names if n.name in FILES}
    return found - {module_of(path)}


@functools.cache
def imports() -> dict[str, set[str]]:
    return {module: imports_of(path) for module, path in FILES.items()}


def height(module: str) -> int:
    """Height of a module's room: larger is higher."""
    room = module.split(".")[1] if "." in module else ""
    if room in ROOMS:
        return len(ROOMS) - ROOMS.index(room)
    assert room in GROUND | TOP, f"{module} stands in no room; ARCHITECTURE.md says where things go"
    return 0 if room in GROUND else len(ROOMS) + 1


def test_imports_go_downwards():
    wrong = [(module, t) for module, targets in imports().items() for t in targets if height(t) > height(module)]
    assert wrong == [], "each imports what is above it"


def test_no_two_files_import_each_other():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for target in sorted(imports().get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


def imported_packages(path: Path) -> set[str]:
    tree = tree_of(path)
    found = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return found | {
        (n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0
    }


def test_a_file_is_small_and_knows_only_what_its_room_may_know():
    for module, path in FILES.items():
        room, packages = module.split(".")[1] if "." in module else "", imported_packages(path)
        assert "ray" not in packages or room in RAY_ROOMS, f"{module}: only cluster/ and launch/ know Ray"
        assert "torch" not in packages or room not in {"report", "data", "config", "display"}, f"{module} imports torch"
        assert (lines := len(path.read_text().splitlines())) <= 500, f"{module} has {lines} lines"
        assert ast.get_docstring(tree_of(path)), f"{module} does not say what it is for"


def ray_names(tree: ast.AST) -> set[str]:
    """Every dotted name of Ray that a file uses, in full: behind aliases, calls, ``getattr`` and imports by name."""
    aliases: dict[str, str] = {}  # what stands in the file, such as "worker" or "self.ray" → its full name
    found: set[str] = set()

    def full(node: ast.AST) -> str:
        """The full name of an expression; empty if it is none of Ray's."""
        if isinstance(node, (ast.Name, ast.Attribute)) and (text := ast.unparse(node)) in aliases:
            return aliases[text]
        if isinstance(node, ast.Attribute) and (owner := full(node.value)):
            return f"{owner}.{node.attr}"
        return full(node.func) if isinstance(node, ast.Call) else ""

    def look(node: ast.AST) -> None:
        match node:
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for name in names:
                    aliases[name.asname or name.name] = f"{module}.{name.name}"
                    found.add(f"{module}.{name.name}")
            case ast.Import(names=names):
                for name in names:
                    top = name.name.split(".")[0]
                    aliases[name.asname or top] = name.name if name.asname else top
                    found.add(name.name)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                aliases.update({ast.unparse(t): full(v) for t, v in zip(targets, values, strict=False) if full(v)})
            case ast.Assign(targets=targets, value=value):
                aliases.update({ast.unparse(t): full(value) for t in targets if full(value)})
            case ast.NamedExpr(target=target, value=value) if full(value):
                aliases[target.id] = full(value)
            case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name)), *_]) if full(owner):
                found.add(f"{full(owner)}.{name}")
            case ast.Attribute():
                found.add(full(node))
            case ast.Constant(value=str(text)) if re.fullmatch(r"ray(\.\w+)+", text):  # for importlib or sys.modules
                found.add(text)

    def walk(node: ast.AST) -> None:  # in the order of the text, so that a name is known before it is used
        for child in ast.iter_child_nodes(node):
            look(child)
            walk(child)

    walk(tree)
    return {name for name in found if name.split(".")[0] == "ray"}


def is_private(name: str) -> bool:
    parts = name.split(".")
    private = any(p.startswith("_") and not p.startswith("__") for p in parts)
    return private or "generated" in parts or name.startswith("ray.experimental.internal_kv")


def test_private_parts_of_ray_stand_in_one_file():
    private = {
        module: used
        for module, path in FILES.items()
        if "ray" in path.read_text() and (used := sorted(filter(is_private, ray_names(tree_of(path)))))
    }
    assert set(private) == {"raysweep.cluster._ray_internals"}, private


@pytest.mark.parametrize(
    "code",
    [
        "import ray._private.worker",
        "import ray._private.worker as w",
        "from ray import _private",
        "from ray import _private as p",
        "from ray._raylet import GcsClient",
        "from ray.core.generated import autoscaler_pb2",
        "from ray.experimental.internal_kv import _internal_kv_get",
        "import ray\nray._private.worker.global_worker",
        "import ray as r\nr._private",
        "from ray import util as u\nu._x()",
        "import ray.util as u\nu._x",
        "import ray\nr = ray\nr._private",
        "import ray\nif r := ray: r._private",
        "import ray\nclass A:\n def __init__(self): self.ray, self.x = ray, 1\n def f(self): self.ray._private",
        "import ray\nray.get_runtime_context()._worker",
        "import ray\nc = ray.get_runtime_context()\nc._worker",
        "import ray\ngetattr(ray, '_private', None)",
        "import importlib\nimportlib.import_module('ray._private.worker')",
        "import sys\nsys.modules['ray._raylet']",
    ],
)
def test_a_private_part_of_ray_is_found_however_it_is_named(code):
    assert any(is_private(name) for name in ray_names(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "import ray\nray.__version__",
        "import ray\nray.get_runtime_context().gcs_address",
        "from ray.util.metrics import Gauge\nself._gauge(Gauge)",
        "from raysweep.cluster import _ray_internals\n_ray_internals.is_ray_client()",
        "from . import _private",
        "x = 'see ray._private'",
    ],
)
def test_public_parts_of_ray_are_allowed(code):
    assert not any(is_private(name) for name in ray_names(ast.parse(code)))


def test_no_function_is_long():
    for module, path in FILES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= 60, f"{module}.{node.name} has {lines} lines; split it by what it does"


# Whatever changes a file of an experiment goes through store/files.py, whose changes pass the gate. These change other files.
CHANGES_FILES = {
    "raysweep.store.files": "the write protocol",
    "raysweep.store.fence": "the file that the kernel's locks are on",
    "raysweep.store.experiment": "a new folder, before it has a writer",
    "raysweep.store.groups": "a new folder of a sweep or an evaluation, before it has a writer",
    "raysweep.store.sweep": "the folder of tracebacks",
    "raysweep.store.root": "whether the root can be written",
    "raysweep.store.index": "the index of a root",
    "raysweep.store.leftovers": "the folder of a killed import, which has no name yet",
    "raysweep.store.trust": "what is recorded of this user",
    "raysweep.store.remote.mirror": "downloads",
    "raysweep.store.remote.uploads": "the manifest that shuts out who has lost an experiment",
    "raysweep.store.remote.bucket": "downloads",
    "raysweep.store.remote.copies": "the folder of downloads",
    "raysweep.launch.sweep.processes": "what processes read and print, in a temporary folder",
    "raysweep.launch.sweep.tune": "the folder of Ray Tune",
    "raysweep.display.streams": "what takes the place of a closed stream",
    "raysweep.tools.import_legacy": "a folder that has no name yet",
    "raysweep.tools.export": "a network, where the user wants it",
    "raysweep._scratch": "temporary folders",
    "raysweep.training.guest": "code that another process sent, in a temporary folder",
    "raysweep.cli.pictures": "a picture, where the user wants it",
    "raysweep.report.grid_file": "a grid, where the user wants it",
    "raysweep.trackers.tensorboard": "the folder of a library that writes by itself",
    "raysweep.trackers.wandb_": "the same",
}
CHANGING = {"unlink", "rename", "replace", "rmdir", "mkdir", "rmtree", "write_text", "write_bytes", "touch", "truncate"}
CHANGING |= {
    "symlink",
    "symlink_to",
    "hardlink_to",
    "link",
    "copy",
    "copy2",
    "copyfile",
    "copytree",
    "move",
    "makedirs",
    "savez",
    "tofile",
}
OF_PATHS = {"unlink", "rmdir", "mkdir", "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"}


def changes_of_files(tree: ast.AST) -> list[str]:
    """The calls in a file that change something on a disk."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, text = ast.unparse(node.func), ast.unparse(node)
        owner, _, last = name.rpartition(".")
        given = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        modes = [t for t in given if isinstance(t, str) and re.fullmatch(r"[rwaxbt+]{1,3}", t)]
        if (
            (last == "open" and any(set(mode) & set("wax+") for mode in modes))
            or (name == "os.open" and "O_RDONLY" not in text and "devnull" not in text)
            or (last in CHANGING and (owner in ("os", "shutil") or last in OF_PATHS))
        ):
            found.append(f"{name} in line {node.lineno}")
    return found


def test_nobody_else_changes_files_of_an_experiment():
    elsewhere = {height(f"raysweep.{room}") for room in ("config", "data", "cluster")}
    for module, path in FILES.items():
        if module not in CHANGES_FILES and height(module) not in elsewhere:
            assert changes_of_files(tree_of(path)) == [], module


def test_whoever_may_change_files_does():
    for module in CHANGES_FILES:
        assert changes_of_files(tree_of(FILES[module])) != [], f"{module} needs no exception"


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')", "open(path, mode='ab')", "path.open('x')", "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "path.write_text('x')", "os.replace(a, b)", "path.unlink()", "shutil.rmtree(folder)", "folder.mkdir()",
    ],
)  # fmt: skip
def test_a_change_of_a_file_is_found(code):
    assert changes_of_files(ast.parse(code)) == [f"{code.partition('(')[0]} in line 1"]


@pytest.mark.parametrize("code", ["open(path)", "open(path, 'rb')", "text.replace('a', 'b')", "replace(job, token=t)"])
def test_reading_is_no_change(code):
    assert changes_of_files(ast.parse(code)) == []


def test_contents_are_typed():
    """``dict[str, Any]`` only where the content is free, such as JSON from outside; records elsewhere."""
    free = sum(path.read_text().count("dict[str, Any]") for path in FILES.values())
    assert free <= 60


def test_no_room_is_crowded():
    sizes: dict[str, int] = {}  # a folder within a room is one of its own
    for module, path in FILES.items():
        folder = module.rpartition(".")[0]
        sizes[folder] = sizes.get(folder, 0) + len(path.read_text().splitlines())
    total = sum(sizes.values())
    assert {room: n for room, n in sizes.items() if n > 0.17 * total} == {}


def test_tests_mirror_the_rooms():
    rooms = {p.name for p in TESTS.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))}
    assert rooms <= {*ROOMS, "ground", "support", "journeys", "situations", "docs"}


def heavy_after(code: str, cwd: Path, *more: str) -> list[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([m for m in {[*HEAVY, *more]!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_reading_is_light(tmp_path):
    code = "import raysweep, raysweep.store.catalog, raysweep.store.experiment, raysweep.store.lineage, raysweep.store.checkpoint"
    assert heavy_after(code, tmp_path) == []
    assert heavy_after("from raysweep import RaysweepError, ConfigError", tmp_path, "raysweep.api", *TERMINAL) == []
    assert not {*heavy_after("import raysweep.api", tmp_path, *TERMINAL)} & {*TERMINAL, "torch", "ray"}
    # Typer had better be one that does not import pydantic: that takes longer than all of `raysweep list`.
    for command in ("list", "lineage", "--help"):
        running = f"from raysweep.cli.main import main\ntry: main([{command!r}])\nexcept SystemExit: pass"
        assert heavy_after(running, tmp_path) == []


def error_classes() -> list[str]:
    from raysweep import errors

    return sorted(n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.RaysweepError))


def test_errors_can_be_imported_from_the_package():
    import raysweep
    from raysweep import errors

    for name in error_classes():
        assert getattr(raysweep, name) is getattr(errors, name)


def test_collecting_the_tests_imports_neither_torch_nor_ray(request):
    """Tests import them, and what imports them, inside: else `pytest` takes seconds more before its first test."""
    assert request.config.stash[HEAVY_AT_COLLECTION] == []


@pytest.mark.slow
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

    objects = ["Audit", "Checkpoint", "Comparison", "Evaluation", "Experiment", "Folds", "Hunt", "Lineage"]
    objects += ["Predictions", "Suggestion", "Sweep"]
    functions = [
        "audit", "branch", "compare", "continue_", "create_experiment_config", "evaluate", "get_experiment", "get_hunt", "get_sweep",
            "hunt", "lineage",
        "list_experiments", "load_checkpoint", "resume", "run", "run_experiment", "suggest",
    ]  # fmt: skip
    assert raysweep.__all__ == [*sorted([*error_classes(), *objects]), *functions]
    assert all(callable(getattr(raysweep, n)) for n in raysweep.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        raysweep.nothing  # noqa: B018
