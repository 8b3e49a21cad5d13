"""Sweeps in ``list`` and ``show``: grouped, with numbers of each class and the verdict; and nothing that people copy is broken."""

from __future__ import annotations

import csv
import json
import re

import pytest

from tests.cli.test_encodings import call
from tests.report.making import sweep_of

NAMES = ("angry", "a_class_whose_name_has_forty_letters_in_it", "厌恶")
BRANCHES = {
    "angry5": ({"angry": 5.0}, (0.95, 0.7, 0.8)),
    "b" * 40: ({NAMES[1]: 3.0}, (0.4, 0.9, 0.8)),
    "恶4": ({"厌恶": 4.0}, (0.4, 0.6, 0.9)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from raysweep.report import comparison, verdict
    from raysweep.store import verdict_file

    sweep = sweep_of(tmp_path_factory.mktemp("shown") / "e", NAMES, (0.4, 0.7, 0.8), BRANCHES, seeds=(0, 1, 2, 3))
    verdict_file.write(sweep, [line.text for line in verdict.lines(comparison.of_sweep(sweep))])
    return sweep


def width_of(text: str) -> int:
    from raysweep.display.terminal import cell_len

    return max(map(cell_len, text.splitlines()))


LOOKED_AT = [
    *((words, width) for words in ("list", "show s", "show s-angry5-seed0", "lineage") for width in (60, 80, 120)),
    ("compare s", 60), ("compare s", 120), ("suggest s", 60), ("diff parent s-angry5-seed0", 60),
]  # fmt: skip


@pytest.mark.parametrize(("words", "width"), LOOKED_AT)
def test_ids_and_commands_stay_whole(made, monkeypatch, words, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = call([*words.split(), "--root", made.root.path], "utf-8", terminal=True)
    assert code == 0, err
    ids = {e.id for e in made.experiments().values()}
    shown = [
        line for line in out.splitlines() if not re.search(r"s-b{40}|/", line)
    ]  # such an id is wider than 60 columns
    assert width_of("\n".join(shown)) <= width
    cut = [
        w
        for w in re.findall(r"\S*_20260102_\w*", out)
        if w.split("@")[0] not in {*ids, made.id, "parent_20260102_030405"}
    ]
    assert [w for w in cut if "/" not in w] == []
    names = set(re.findall(r"[\w]*forty_letters\w*", out))
    assert names <= {NAMES[1]}
    for line in (err if words != "suggest s" else "").splitlines():  # it prints two commands in a line
        if "raysweep " in line and "`" not in line:
            assert line.endswith(f"--root {made.root.path}")


def test_list_groups_the_branches_of_a_sweep(made, monkeypatch):
    from raysweep.cli.list_ import MOST_BRANCHES

    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = call(["list", "--root", made.root.path], "utf-8", terminal=True)
    assert code == 0, err
    rows = out.splitlines()[3:]
    first, sweep, *others = (r for r in rows if r)
    assert first.split()[0] == "parent_20260102_030405"
    assert sweep.split()[:3] == [made.id, "16", "finished"]
    assert "sweep of 16 branches" in sweep
    assert all(r.startswith("   s-") for r in others[:-1])
    assert len(others) == MOST_BRANCHES + 1
    assert others[-1].split() == ["…", "8", "more"]
    assert {f"s-control-seed{i}_20260102_030405" for i in range(4)} <= {r.split()[0] for r in others}
    assert f"`raysweep list --sweep {made.id} --root {made.root.path}`" in err
    _, out, _ = call(["list", "--limit", "2", "--root", made.root.path], "utf-8", terminal=True)
    assert "sweep of 16 branches" in out
    assert "… 14 more" in out
    for more in (["--sweep", "s"], ["--sort", "best_acc"], ["--status", "finished"]):
        _, out, _ = call(["list", *more, "--root", made.root.path], "utf-8", terminal=True)
        assert "sweep of" not in out
        assert len(re.findall(r"^ s-", out, re.M)) == 16


def test_a_program_gets_one_row_for_each_experiment(made):
    _, out, _ = call(["list", "--root", made.root.path], "utf-8")
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == [
        e["id"] for e in json.loads(call(["list", "--json", "--root", made.root.path], "utf-8")[1])
    ]


def test_show_has_the_verdict_that_compare_gives(made):
    _, out, err = call(["show", "s", "--root", made.root.path], "utf-8")
    _, _, compared = call(["compare", "s", "--root", made.root.path], "utf-8")
    told = out[out.index("Verdict:\n") + 9 :].splitlines()
    assert len(told) > 1
    *sentences, more = (t.strip() for t in told)
    found = json.loads(call(["show", "s", "--json", "--root", made.root.path], "utf-8")[1])["verdict"]
    assert sentences == found[: len(sentences)]
    assert more == f"… {len(found) - len(sentences)} more; --json has all."
    assert found == compared.splitlines()[: len(found)]
    assert "had finished" not in err


def test_an_old_verdict_says_so_and_a_damaged_one_is_none(made):
    from raysweep.store import verdict_file

    path = made.folder / "verdict.json"
    whole = path.read_bytes()
    value = json.loads(whole)
    try:
        path.write_text(json.dumps({**value, "branches": value["branches"][:3]}))
        _, _, err = call(["show", "s", "--root", made.root.path], "utf-8")
        assert "The verdict was written when 3 branches had finished; now 16 have." in err
        for damaged in ("", "[]", '{"sentences": 3, "branches": []}', '{"sentences": [], "branches": []}'):
            path.write_text(damaged)
            assert verdict_file.read(made) is None
            code, out, _ = call(["show", "s", "--root", made.root.path], "utf-8")
            assert (code, "Verdict" in out) == (0, False)
    finally:
        path.write_bytes(whole)


def test_results_and_show_have_numbers_of_every_class(made):
    with open(made.folder / "results.csv", newline="", encoding="utf-8") as file:
        rows = {r["branch"]: r for r in csv.DictReader(file)}
    for name, experiment in made.experiments().items():
        with open(experiment.folder / "training_history.csv", newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
        for c in NAMES:
            assert float(rows[name][f"recall_{c}"]) == float(last[f"recall_{c}"])
            assert float(rows[name][f"f1_{c}"]) == float(last[f"f1_{c}"])
    _, out, _ = call(["show", "s", "--root", made.root.path], "utf-8")
    head = next(line for line in out.splitlines() if line.startswith("branch\t")).split("\t")
    table = {line.split("\t")[0]: line.split("\t") for line in out.splitlines() if line.count("\t") == len(head) - 1}
    for seed in range(4):
        own, control = (float(rows[f"{b}-seed{seed}"]["recall_angry"]) for b in ("angry5", "control"))
        assert table[f"angry5-seed{seed}"][head.index("angry")] == f"{100 * (own - control):+.1f}"
        assert table[f"control-seed{seed} *"][head.index("angry")] == f"{control:.1%}"
    _, out, _ = call(["show", "s-angry5-seed0", "--root", made.root.path], "utf-8")
    line = next(line for line in out.splitlines() if line.startswith("angry\t")).split("\t")
    assert line[-3] == f"{float(rows['angry5-seed0']['recall_angry']):.1%}"
    found = json.loads(call(["show", "s-angry5-seed0", "--json", "--root", made.root.path], "utf-8")[1])
    assert found["classes"]["recall_angry"] == float(rows["angry5-seed0"]["recall_angry"])


@pytest.mark.parametrize("verb", ["show", "compare", "report", "continue", "suggest", "power", "flips"])
@pytest.mark.parametrize("reference", ["s", "id", "path", "prefix"])
def test_every_verb_takes_a_sweep_by_the_same_rule(made, monkeypatch, tmp_path, verb, reference):
    """What the verb gets is this sweep, whichever way it is named."""
    from raysweep.store import resolve

    seen = []
    real = resolve.find_any
    monkeypatch.setattr(
        resolve, "find_any", lambda *given: seen.append(real(*given)) or (_ for _ in ()).throw(KeyError)
    )
    which = {"s": "s", "id": made.id, "path": str(made.folder), "prefix": made.id[:-3]}[reference]
    more = {"flips": ["angry5"], "report": ["-o", str(tmp_path / "x.html")]}.get(verb, [])
    with pytest.raises(KeyError):
        call([verb, which, *more, "--root", made.root.path], "utf-8")
    assert [f.folder for f in seen] == [made.folder]
