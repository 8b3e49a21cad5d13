"""The text of a notebook's code: what it needs and no more, made again elsewhere, or what is missing by name."""

from __future__ import annotations

import functools
import re
import sys
from types import ModuleType

import pytest

HEAD = "import functools, math\nimport torch\nimport torch.utils.checkpoint\nfrom torch import nn\nfrom torch.nn import *\n"
NET = """class Net(nn.Module):
    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.body = nn.Linear(width, num_classes)
    def forward(self, x):
        return self.body(x)
"""
WHOLE = {
    "a function of several cells": (NET, "WIDE = {'a': [4, (1,)], 'b': float('inf')}\n", "def f():\n    return Net(width=WIDE['a'][0])"),
    "a lambda": (NET, "f = lambda num_classes=2: Net(num_classes, 8)"),
    "a partial": (NET, "f = functools.partial(Net, 3, width=8)"),
    "a partial of a library": ("f = functools.partial(nn.Linear, 3, 4)",),
    "another name": (NET, "f = Net"),
    "a method by dots": ("class f:\n    @staticmethod\n    def build(): return nn.Linear(2, 2)\n",),
    "defaults, decorators and bases": (
        "WIDTH = 5\ndef scaled(factor):\n    return lambda cls: type(cls.__name__, (cls,), {'factor': factor, '__module__': '__main__'})\n",
        "def noted(function):\n    @functools.wraps(function)\n    def inner(*args):\n        return function(*args)\n    return inner\n",
        "class Base(nn.Module):\n    kinds = [n for n in ('a', 'b')]\n    size: int = 3\n    def forward(self, x):\n        return self.body(x)\n",
        "class Own(Base):\n    def __init__(self, width=WIDTH):\n        super().__init__()\n        self.body = nn.Linear(width, 2)\n",
        "@noted\ndef f():\n    return Own()",
    ),
    "each other": ("def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n", "def f():\n    return even(4)"),
    "a comprehension in a class": ("def double(i):\n    return 2 * i\n", "class f:\n    sizes = [double(i) for i in range(3)]\n    def get(self):\n        return self.sizes"),
    "a star import and a long path": ("def f():\n    return Linear(2, 2), torch.utils.checkpoint.checkpoint.__name__, TYPE\n", "TYPE = torch.float32"),
    "within if": ("if True:\n    def f():\n        return math.pi\nelse:\n    def f():\n        return 0\n",),
    "a dataclass and an enum": (
        "from dataclasses import dataclass\nfrom enum import Enum\n",
        "@dataclass\nclass Sizes:\n    width: int = 4\n    depth: int = 2\n",
        "class Kind(Enum):\n    BIG = 1\n",
        "def f():\n    return Sizes(3), Kind.BIG.name",
    ),
    "annotations of the future": ("from __future__ import annotations\ndef f(x: Unknown = 1) -> Unknown:\n    return x",),
    "a name of another cell that a local one hides": ("rows = object()\n", "def f():\n    rows = 2\n    return rows"),
    "run again": ("def f():\n    return 1\n", "def f():\n    return 2\n"),
}  # fmt: skip
LACKS = {
    "a value": ("import threading\nLOCK = threading.Lock()\n", "def f():\n    return LOCK", r"LOCK \(a lock, whose value"),
    "a ready network": ("net = nn.Linear(2, 2)\n", "def f():\n    return net", r"net \(a ready network, whose weights stand in no text"),
    "a closure": ("def make(width):\n    def build():\n        return nn.Linear(width, 2)\n    return build\n", "f = make(3)", r"f \(it was made in make and holds its width\)"),
    "a method that was replaced": (NET, "def other(self, x):\n    return x\nNet.forward = other\nf = Net", r"Net \(its forward was set after"),
    "a method that was added": (NET, "Net.more = 3\nf = Net", r"Net \(its more was set after it was defined"),
    "a plain attribute that was changed": ("class f:\n    size = 3\n    def get(self): return self.size\n", "f.size = 4", r"its size is another one"),
    "a default that was changed": ("WIDTH = 3\ndef f(width=WIDTH):\n    return width\n", "WIDTH = 4", r"a default of it is another one"),
    "a base that was run again": ("class Base:\n    def get(self): return 1\n", "class f(Base):\n    def more(self): return 2\n", "class Base:\n    def get(self): return 3\n", r"it was derived from another Base"),
    "a name that was taken": ("def g():\n    return 1\nf = g\n", "def g():\n    return 2\n", r"it was defined as g, which now means something else"),
    "a value in a partial": (NET, "f = functools.partial(Net, width=object())", r"f \(a partial"),
}  # fmt: skip


def text_of(name: str = "f") -> str:
    from raysweep.training import notebook

    return notebook.text_of(f"__main__:{name}", vars(sys.modules["__main__"]), "the whole cells")


@pytest.mark.parametrize("case", WHOLE)
def test_it_is_made_again(run_cells, monkeypatch, case):
    import torch

    from raysweep.training import notebook

    run_cells(HEAD, *WHOLE[case], "unused = print\n")
    name = "f.build" if "dots" in case else "f"
    text = text_of(name)
    assert notebook.lacking(f"__main__:{name}", text) is None, text
    assert "unused" not in text

    def result(found):
        torch.manual_seed(0)
        made = found()
        made = made.get() if hasattr(made, "get") else made
        return repr([made, *(getattr(made, "state_dict", dict)().values())])

    here = result(functools.reduce(getattr, name.split("."), sys.modules["__main__"]))
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert result(notebook.made(f"__main__:{name}", text, "<again>")) == here


@pytest.mark.parametrize("case", LACKS)
def test_what_is_missing_has_a_name(run_cells, case):
    from raysweep.training import notebook

    *cells, told = LACKS[case]
    run_cells(HEAD, *cells)
    text = text_of()
    assert re.search(told, str(notebook.lacking("__main__:f", text))), text
    assert text.endswith("the whole cells")


def test_a_text_of_an_earlier_version_is_not_run():
    from raysweep.training import notebook

    with pytest.raises(ValueError, match="whole cells"):
        notebook.lacking("__main__:f", "class f: pass")
