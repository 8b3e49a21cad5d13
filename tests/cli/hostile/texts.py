"""Hostile texts: names, YAML, weights, and classes that must not reach a spreadsheet, a log or a terminal."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import yaml

from tests.cli.hostile.cases import Room, Work, add
from tests.cli.hostile.files import DEEP, a_sweep
from tests.conftest import draw_classes

# --- names ------------------------------------------------------------------------------------------------------------

NAMES = {
    "a path upwards": "../x",
    "an absolute path": "/etc/x",
    "NUL": "a\0b",
    "CON": "CON",
    "CON and a suffix": "con.txt",
    "300 characters": "x" * 300,
    "100 wide characters": "字" * 100,
    "a newline": "a\nerror: b",
    "an escape": "a\x1b[2Jb",
    "a right-to-left override": "a\u202egnp.exe",
    "a leading dash": "-x",
    "a leading dot": ".x",
    "only spaces": "   ",
    "nothing": "",
    "half a character": "a\udc80",
}
NOT_THERE = "There is no|[Nn]o experiment"


def named(text: str, room: Room) -> Work:
    return ["run", room.config(), f"--name={text}"]


def named_sweep(text: str, room: Room) -> Work:
    return room.grid("weights: {cat: [2.0]}", f"--name={text}")


def named_branch(text: str, room: Room) -> Work:
    return room.grid(yaml.safe_dump({"branches": [{"name": text, "weights": {"cat": 2.0}}]}))


for label, text in NAMES.items():
    add(f"a name with {label}", r"experiment\.name: the name", partial(named, text))
for label in ("a path upwards", "NUL", "a newline", "a right-to-left override"):
    text = NAMES[label]
    add(f"a sweep's name with {label}", "The sweep cannot be made: the name", partial(named_sweep, text))
    add(f"a branch's name with {label}", r"branches\.0\.name.*: the name", partial(named_branch, text))
    add(f"a checkpoint's name with {label}", NOT_THERE, lambda room, t=text: ["resume", "--from", f"{t}.pt"])  # type: ignore[misc]
    add(f"an experiment's name with {label}", NOT_THERE, lambda room, t=text: ["continue", t])  # type: ignore[misc]
add("a root with NUL", "root|written", lambda room: ["run", room.config(), "--root", f"{room.root}/a\0b"])

# --- YAML and weights -------------------------------------------------------------------------------------------------


def yaml_code(room: Room) -> str:
    return f"experiment:\n  name: !!python/object/apply:os.system [\"touch '{room.marker}'\"]\n"


def chain(first: str, length: int, width: int) -> str:
    """``a`` and so many lists after it, each of which is ``width`` times the one before."""
    names = "abcdefghijklmnop"
    rows = [f"{b}: &{b} [{', '.join([f'*{a}'] * width)}]" for a, b in itertools.pairwise(names)]
    return "\n".join([f"a: &a [{first}]", *rows[:length]]) + "\n"


LAUGHS = chain("x", 8, 10)
FEW_ALIASES = chain("x, " * 30_000, 9, 2)  # below the limit, and still 2**9 times a long list
ITSELF = "a: &a [*a, *a, *a]\n"
NO_OPTION = "there is no such option"
YAMLS: dict[str, tuple[str | bytes, str]] = {
    "a Python name": ("data: !!python/name:os.system\n", "line 1.*not valid YAML"),
    "a Python module": ("data: !!python/module:antigravity\n", "line 1.*not valid YAML"),
    "a billion laughs": (LAUGHS, "more than 20 aliases"),
    "few aliases of much": (FEW_ALIASES, f"alias|{NO_OPTION}"),
    "an alias of itself": (ITSELF, f"alias|itself|{NO_OPTION}"),
    "a mapping in itself": ("data: {path: IMAGES}\nmodel: &a {name: cnn, options: *a}\n", "alias|itself|option"),
    "much nesting": ("a: " + DEEP, "not valid YAML"),
    "5 MB": ("data: {source: digits}\n" + "#" * 5_000_000, "larger than"),
    "3.9 MB of lists": ("a: [" + "1,\n" * 1_300_000 + "1]\n", f"larger than|{NO_OPTION}"),
    "much unknown": ("".join(f"key{i}: 1\n" for i in range(20_000)), f"larger than|{NO_OPTION}"),
    "a long text in the wrong place": ("training: {epochs: " + "x" * 100_000 + "}\n", r"training\.epochs"),
    "a number of 5000 digits": (
        "training: {epochs: " + "1" * 5000 + "}\n",
        r"f\.yaml, line 1: the number has 5,000 characters",
    ),
    "a number of 400 digits": ("sampling: {weights: {cat: " + "1" * 400 + "}}\n", "weight of class 'cat'"),
    "a date there is not": ("experiment: {description: 2001-99-99}\n", r"f\.yaml, line 1.*not valid YAML"),
    "a number that is none": ("training: {epochs: !!int x}\n", r"f\.yaml, line 1.*not valid YAML"),
    "bytes": (b"\x00\xff\xfe\x80" * 99, "cannot be read as text"),
    "control characters": ("experiment: {name: a\x07b}\n", r"f\.yaml.*not valid YAML"),
    "an unknown key": ("training: {epohcs: 3}\n", rf"training\.epohcs \(line 1\): {NO_OPTION}.*epochs"),
    "an unknown key that steers": ('training: {"a\\nerror: b\\e[2J": 3}\n', rf"training\.a.*{NO_OPTION}"),
    "a list for a number": ("training: {epochs: [3]}\n", r"training\.epochs \(line 1\): "),
}
RANGES = "ranges: {cat: {uniform: [1, 2]}}"
GRIDS: dict[str, tuple[str | bytes, str]] = {
    **{k: YAMLS[k] for k in ("a billion laughs", "few aliases of much", "an alias of itself", "bytes", "much nesting")},
    "an unknown key": ("wieghts: {cat: [2.0]}\n", f"wieghts.*{NO_OPTION}.*weights"),
    "a list for a number": ("weights: {cat: [2.0]}\nepochs: [3]\n", r"epochs \(line 2\)"),
    "a billion points": ("weights: {cat: &a [" + "1.5, " * 2000 + "2], dog: *a, eel: *a}\n", "at most 10,000"),
    "a billion samples": (f"search: {{algorithm: random, num_samples: 1000000000, {RANGES}}}\n", "10,000"),
    "a number of 400 digits": ("weights: {cat: [" + "1" * 400 + "]}\n", "weight of class 'cat'"),
    "infinity": ("weights: {cat: [.inf]}\n", "weight of class 'cat' is inf"),
}
NEITHER = "no JSON object and no file"
WEIGHTS: dict[str, tuple[str, str | bytes, str]] = {
    "a billion laughs": ("w.yaml", LAUGHS, "more than 20 aliases"),
    "an alias of itself": ("w.yaml", ITSELF.replace("a:", "cat:"), "alias|itself|weight of class 'cat'"),
    "code": ("w.yaml", "cat: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    "bytes": ("w.json", b"\x00\xff\xfe\x80" * 99, r"w\.json"),
    "much nesting": ("w.json", '{"cat": ' + DEEP, r"w\.json"),
    "much nesting on the command line": ("", '{"cat": ' + DEEP, "--weights"),
    "a megabyte without a brace": ("", "x" * 1_000_000, NEITHER),
    "NUL": ("", "a\0b", NEITHER),
    "a newline": ("", "a\nerror: b", NEITHER),
    "a number of 400 digits": ("", '{"cat": ' + "1" * 400 + "}", "weight of class 'cat'"),
    "a number of 5000 digits": ("", '{"cat": ' + "1" * 5000 + "}", "weight"),
    "1e400": ("", '{"cat": 1e400}', "weight of class 'cat' is inf"),
    "NaN": ("", '{"cat": NaN}', "weight of class 'cat' is nan"),
    "a long text": ("", '{"cat": "' + "x" * 100_000 + '"}', "weight of class 'cat'"),
    "a class that steers": ("", '{"\\u001b[2J\\nerror: b": 2}', "name class"),
}


def yaml_given(text: str | bytes, room: Room) -> Work:
    images = str(room.template.parents[1] / "images")
    return ["run", room.put("f.yaml", text.replace("IMAGES", images) if isinstance(text, str) else text)]


def grid_given(text: str | bytes, room: Room) -> Work:
    return room.grid(text)


def weights_given(file: str, text: str | bytes, room: Room) -> Work:
    return room.weights(room.put(file, text) if file else text)


add("a configuration with code", "line 2.*not valid YAML", lambda room: yaml_given(yaml_code(room), room))
add("a grid with code", "line 2.*not valid YAML", lambda room: room.grid(yaml_code(room)))
for label, (content, told) in YAMLS.items():
    add(f"a configuration with {label}", told, partial(yaml_given, content))
for label, (content, told) in GRIDS.items():
    add(f"a grid with {label}", told, partial(grid_given, content))
for label, (file, content, told) in WEIGHTS.items():
    add(f"weights with {label}", told, partial(weights_given, file, content))

# --- classes and histories that must not reach a spreadsheet, a log or a terminal -------------------------------------

FORGERY = "a\n\n[2030-01-01 00:00:00] #9\nChange Type: FINISHED"
TRAINED: dict[str, tuple[list[str], tuple[int, ...]]] = {
    "markup and formulas": (
        ["<img src=x onerror=alert(1)>", "=cmd()", "+1", "-1", "@SUM(A1)", "$x_{$", "a,b\"'"],
        (0,),
    ),
    "foreign writing": (["\u202eright to left", "עברית", "🙂 emoji", "字"], (0,)),
    # what is no line of text may also be refused
    "forged lines": ([FORGERY, "\n=cmd()", "\t=cmd()", "\x1b[2J"], (0, 2)),
    "a forged cell": (["a\r=cmd()", "b"], (0, 2)),
    "no text": (["a\udcff", "b"], (0, 2)),
}
WROTE_CSV = [f"classes of {label}" for label in TRAINED]


def trained(classes: Iterable[str], room: Room) -> Work:
    names = list(classes)
    draw_classes(room.folder / "images", dict.fromkeys(names, 8))
    weights = json.dumps({names[1]: 2.0})
    return ["run", room.config(room.folder / "images"), f"sampling.weights={weights}", "--description", FORGERY]


for label, (classes, allowed) in TRAINED.items():
    add(f"classes of {label}", "Best: epoch 1|class", partial(trained, classes), *allowed)
HISTORIES: dict[str, dict[str, list[Any]]] = {
    "a formula for a column": {"val_acc": [0.5], "=cmd()": [1.0]},
    "a formula for a number": {"val_acc": ["=cmd()"]},
}
for label, history in HISTORIES.items():
    add(f"a checkpoint whose history has {label}", "", lambda room, h=history: room.poisoned(history=h), 0, 2)  # type: ignore[misc]
    WROTE_CSV.append(f"a checkpoint whose history has {label}")
FORMULAS = "a sweep whose worst class is a formula"
add(FORMULAS, "there is nothing to do", lambda room: ["continue", a_sweep(room).name], 0)
