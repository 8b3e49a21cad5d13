"""Numbered images: their order by number, what changes from one to the next, and what is missing."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from raysweep.tools import frames
from raysweep.tools.asked import natural


def series(*names: str) -> dict[str, list[str]]:
    paths = [Path(name) for name in names]
    return {s.name: [paths[row].name for row in s.rows] for s in frames.series_of(paths)}


def test_frames_are_ordered_by_their_number():
    assert series("img10.png", "img9.png", "img1.png", "cover.png") == {"img#": ["img1.png", "img9.png", "img10.png"]}
    assert series("a/f2.png", "b/f1.png", "a/f1.png") == {"a/f#": ["f1.png", "f2.png"], "b/f#": ["f1.png"]}
    assert series("帧 ２.png", "帧 １０.png") == {"帧 #": ["帧 ２.png", "帧 １０.png"]}


def test_of_several_numbers_that_which_differs_most_counts():
    """OpenFace and others number the faces of a frame, too."""
    names = [f"s1_frame{n:04}_face{f}.png" for n in (11, 9, 10) for f in (0, 1)]
    assert series(*names) == {
        f"s1_frame#_face{f}": [f"s1_frame{n:04}_face{f}.png" for n in (9, 10, 11)] for f in (0, 1)
    }
    assert series("2024-01-01_2.png", "2024-01-01_1.png") == {"2024-01-01_#": ["2024-01-01_1.png", "2024-01-01_2.png"]}


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=30), st.randoms())
def test_any_order_of_files_gives_the_order_of_numbers(numbers, random):
    shuffled = [*numbers]
    random.shuffle(shuffled)
    (found,) = frames.series_of([Path(f"f{n}.png") for n in shuffled])
    assert list(found.numbers) == sorted(numbers)
    assert [shuffled[row] for row in found.rows] == sorted(numbers)
    assert sorted((f"f{n}" for n in numbers), key=natural) == [f"f{n}" for n in sorted(numbers)]


def test_changes_gaps_and_doubles_are_told():
    paths = [Path(f"f{n}.png") for n in (1, 2, 3, 6, 7)] + [Path("f07.png")]
    (found,) = frames.series_of(paths)
    answers = {
        0: ("sad", (1.0, 0.0)),
        1: ("sad", (0.9, 0.1)),
        3: ("happy", (0.2, 0.8)),
        4: ("happy", (0.2, 0.8)),
        5: ("sad", (1, 0)),
    }
    of = frames.steps(found, answers)
    assert [(s.number, s.before, s.turns) for s in of.values()] == [
        (1, None, False), (2, 1, False), (6, 2, True), (7, 6, False), (7, 7, True),
    ]  # fmt: skip
    assert [None if s.change is None else round(s.change, 9) for s in of.values()] == [None, 0.1, 0.7, 0.0, 0.8]
    lines = frames.told(found, of)
    assert lines[0] == (
        "f#: 5 images, 2 changes of class: 1–2 sad, 6–7 happy, 7 sad. The largest change is from 7 to 7 (80.0%)."
    )
    assert lines[1] == "f#: no image has the numbers 4, 5; a change over a gap is one step."
    assert lines[2] == "f#: several images have the number 7; they follow each other as listed."
    assert frames.told(found, {}) == ["f#: none of 6 images can be used."]


def test_a_few_frames_far_apart_are_no_million_missing_ones():
    (found,) = frames.series_of([Path("f1.png"), Path("f20260101123000.png")])
    assert len(found.missing) == 1000
