"""The tree of errors in the docstring of :mod:`raysweep.errors` is the tree of its classes."""

from __future__ import annotations

import inspect
import re

import pytest

from raysweep import errors


def documented() -> dict[str, tuple[str, int]]:
    """Class → (its parent, its exit code), as the docstring's tree shows them."""
    found: dict[str, tuple[str, int]] = {}
    above: dict[int, str] = {}
    for indent, name, code in re.findall(r"^([ │├└─]*)([A-Z]\w+)(?: +\((\d+)\)|  )", errors.__doc__, re.MULTILINE):
        level = (len(indent) - 4) // 4
        parent = above.get(level - 1, "Exception")
        above[level] = name
        found[name] = parent, int(code) if code else found[parent][1]
    return found


def test_the_docstring_shows_every_error_with_its_parent_and_its_exit_code():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert documented() == {c.__name__: (c.__bases__[0].__name__, c.exit_code) for c in classes}


def test_every_error_says_its_exit_code():
    for name, (_, code) in documented().items():
        assert f"Exit code {code}." in getattr(errors, name).__doc__, name


def test_a_notebook_shows_one_paragraph_and_the_line_that_called(monkeypatch):
    from raysweep.store.root import Root

    monkeypatch.delenv("RAYSWEEP_DEBUG", raising=False)
    with pytest.raises(errors.RootError) as caught:
        Root.open("gs://bucket")
    shown = caught.value._render_traceback_()
    assert shown[0].endswith('Root.open("gs://bucket")')  # the user's line, none of ours
    assert shown[1:] == ["", f"RootError: {caught.value}"]
    assert errors.RaysweepError("x")._render_traceback_() == ["RaysweepError: x"]
    monkeypatch.setenv("RAYSWEEP_DEBUG", "1")
    assert caught.value._render_traceback_()[0] == "Traceback (most recent call last):"
