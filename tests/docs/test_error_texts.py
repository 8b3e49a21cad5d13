"""The messages in the FAQ are those of the program."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GAP = "…"  # what differs from case to case, in the page and in the program's texts below
JOINT = re.compile(r"""["']\s*\n\s*f?["']""")  # a text that goes on in the next line
VALUE = re.compile(r"(?<!\{)\{[^{}\n]*\}")  # what is put into a text


@functools.cache
def program() -> str:
    """The source of the package, with whole texts in one line and a gap for each value that is put into them."""
    sources = (p.read_text(encoding="utf-8") for p in sorted((ROOT / "raysweep").rglob("*.py")))
    joined = JOINT.sub("", "\n".join(sources))
    return VALUE.sub(GAP, VALUE.sub(GAP, joined)).replace("{{", "{").replace("}}", "}")


def pieces(message: str) -> list[str]:
    """What stands between the gaps of a message, and between its sentences: the program may put them together."""
    text = re.sub(r"`raysweep [^`]*`", GAP, message)
    return [s for piece in re.split(rf"{GAP}+|(?<=[.?]) ", text) if len(s := piece.strip(" .:?()`")) > 5]


def messages() -> list[str]:
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    return re.findall(r"^(?:error|WARNING): (.+)$", page, re.MULTILINE)


def test_the_page_has_messages():
    assert len(messages()) > 25


@pytest.mark.parametrize("message", messages(), ids=lambda m: m[:50])
def test_every_message_is_in_the_program(message):
    assert pieces(message), f"nothing of {message!r} can be compared"
    for piece in pieces(message):
        assert piece in program(), f"docs/faq.md shows {piece!r}, which no text of the program has"


def test_a_message_that_was_changed_is_found():
    shown = "experiments/base is being written by process 12 on here since noon. Wait for it or stop it."
    assert pieces(shown)[-1] == "Wait for it or stop it"
    assert pieces(shown)[-1] in program()
    assert "Wait for it or kill it" not in program()
