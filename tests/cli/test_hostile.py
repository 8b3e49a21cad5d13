"""Hostile checkpoints, folders, files and names: none runs code, hangs, fills the memory or reaches out of the root, and
each ends in one clear paragraph. All commands run in forks of one process, which has imported everything once."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.hostile import strangers  # noqa: F401  (it adds its cases)
from tests.cli.hostile.cases import CASES, Case
from tests.cli.hostile.controls import CONTROLS, LIMIT_BYTES, LONGEST
from tests.cli.hostile.texts import FORMULAS, TRAINED, WROTE_CSV

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured with Linux's /proc")


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Case → what came of it, of the cases that were selected."""
    folder = tmp_path_factory.mktemp("hostile")
    mine = [item for item in request.session.items if item.path == request.path]
    wanted = {
        item.callspec.params["name"]
        for item in mine
        if isinstance(item, pytest.Function) and "name" in item.fixturenames
    }
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # forks want few
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.hostile.running", str(folder), json.dumps([n for n in CASES if n in wanted])],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **one_thread, "RAYSWEEP_CACHE": str(folder / "cache"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def faults(case: Case, done: Mapping[str, Any]) -> str:
    """Everything that a case did wrong."""
    found = []
    code, err, both = done["code"], done["err"], done["err"] + done["out"]
    if done["seconds"] > case.limit_s:
        found.append(f"it took more than {case.limit_s:g} s")
    elif code not in case.codes:
        found.append(f"exit code {code} instead of {case.codes}")
    if done["ran"]:
        found.append("the payload ran")
    if done["growth"] > LIMIT_BYTES:
        found.append(f"it filled {done['growth'] / 1e6:,.0f} MB")
    if "Traceback" in both:
        found.append("a traceback")
    if not all(line.isprintable() for line in both.replace("\t", " ").split("\n")):
        found.append("characters that steer the terminal")
    if not re.search(case.told, both, re.DOTALL):
        found.append(f"{case.told!r} is not in the output")
    if done["touched"]:
        found.append(f"changed outside the root: {done['touched']}")
    first, *items = err.rstrip().split("\n")  # several faults are a short list, one a line
    if code == 2 and (not first.startswith("error: ") or len(items) > 12 or any(not i.startswith("  ") for i in items)):
        found.append("not one paragraph")
    if code == 2 and done["made"]:
        found.append(f"left in the root: {done['made']}")
    if code != 0 and len(err) > LONGEST:
        found.append(f"an error of {len(err):,} characters")
    if code == 0 and "--json" in done["arguments"] and re.search("NaN|Infinity", done["out"]):
        found.append("no valid JSON")
    return "; ".join(found)


def shown(done: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}: {str(value)[-1500:]}" for key, value in done.items())


def sampled(names: Iterable[str], step: int = 20) -> list[Any]:
    """Every twentieth case runs by default; all others are slow, and of these three in four are long."""
    marks = [[], [pytest.mark.slow], [pytest.mark.slow, pytest.mark.long]]
    return [pytest.param(n, marks=marks[0 if i % step == 0 else 1 if i % 4 == 0 else 2]) for i, n in enumerate(names)]


@pytest.mark.parametrize("name", sampled(n for n in CASES if n not in CONTROLS))
def test_hostile(report: dict[str, dict[str, Any]], name: str) -> None:
    wrong = faults(CASES[name], report[name])
    assert not wrong, f"{wrong}\n{shown(report[name])}"


@pytest.mark.parametrize("name", sampled(CONTROLS, 5))
def test_the_attacks_are_real_and_the_checks_can_fail(report: dict[str, dict[str, Any]], name: str) -> None:
    wrong = faults(CASES[name], report[name])
    assert re.match(CONTROLS[name], wrong), f"{wrong}\n{shown(report[name])}"


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would compute the cell."""
    try:
        float(cell)
        return False
    except ValueError:
        return cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def formulas(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row if is_formula(cell)]


def test_what_a_formula_is(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,-0.5,"=cmd(""x"")",\'=cmd()\n+inf,1e400,@SUM(A1),-nan\n')
    assert formulas(path) == ['=cmd("x")', "@SUM(A1)"]


@pytest.mark.parametrize("name", sampled([*WROTE_CSV, FORMULAS], 3))
def test_no_cell_is_a_formula(report: dict[str, dict[str, Any]], name: str) -> None:
    root = Path(report[name]["root"])
    tables = [*root.glob("*/training_history.csv"), *root.glob("sweeps/*/results.csv")]
    assert tables or report[name]["code"] == 2
    assert {path.name: found for path in tables if (found := formulas(path))} == {}


@pytest.mark.parametrize("name", sampled([f"classes of {label}" for label in TRAINED], 3))
def test_no_class_forges_an_event_or_spoils_a_picture(report: dict[str, dict[str, Any]], name: str) -> None:
    folders = [found.parent for found in Path(report[name]["root"]).glob("*/lineage.jsonl")]
    assert folders or report[name]["code"] == 2
    for folder in folders:
        log = (folder / "experiment_changes.log").read_text()
        events = [json.loads(line)["type"] for line in (folder / "lineage.jsonl").read_text().split("\n") if line]
        assert re.findall(r"^Change Type: (.*)$", log, re.MULTILINE) == events
        assert "could not be drawn" not in log
        for picture in ("confusion_matrix_benchmark.png", "training_history.png", "classification_report.txt"):
            assert (folder / picture).stat().st_size > 100
