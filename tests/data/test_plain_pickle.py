"""Pickles of plain data: what Python's unpickler would give, without one; and what would run, does not."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import plain_pickle
from raysweep.errors import DataError


def read(data: bytes) -> dict:
    return plain_pickle.load(data, "a file")


def refused(data: bytes) -> str | None:
    """What is said of a file that is refused; None if it is read."""
    try:
        read(data)
    except DataError as error:
        return str(error)
    return None


NUMBERS = st.sampled_from(["u1", "i1", "<i2", ">i4", "<i8", ">u8", "<f4", "f8", "?"])


@st.composite
def arrays(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    values = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape).astype(draw(NUMBERS))
    return np.asfortranarray(values) if draw(st.booleans()) else values


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), PLAIN), st.integers(2, 5))
@settings(deadline=None)
def test_plain_values_are_read_as_the_unpickler_reads_them(value, protocol):
    data = pickle.dumps(value, protocol)
    found = read(data)
    assert found == pickle.loads(data) == value
    assert repr(found) == repr(value)  # the types too, and the order of keys


@given(arrays(), st.integers(2, 5))
@settings(deadline=None)
def test_arrays_are_read_as_the_unpickler_reads_them(value, protocol):
    data = pickle.dumps({"data": value, "again": value}, protocol)
    found = read(data)
    for key in ("data", "again"):
        assert found[key].dtype == value.dtype
        assert found[key].shape == value.shape
        assert np.array_equal(found[key], pickle.loads(data)[key])
        assert not found[key].flags.writeable


def python_2(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as CIFAR's own files have it: written by Python 2 with numpy 1, which had no other text than bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    rows, columns = data.shape
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03",
            text(b"labels") + b"q\x04]q\x05(" + b"".join(map(number, labels)) + b"e",
            text(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85",
            text(b"b") + b"\x87Rq\x09(K\x01" + number(rows) + number(columns) + b"\x86cnumpy\ndtype\nq\x0a",
            text(b"u1")
            + b"K\x00K\x01\x87Rq\x0b(K\x03"
            + text(b"|")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<i", data.size) + data.tobytes() + b"tb",
            text(b"filenames") + b"q\x0c]q\x0d(" + b"".join(text(f"{i}.png".encode()) for i in range(rows)) + b"eu.",
        ]
    )


def test_what_python_2_wrote():
    images = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
    data = python_2(images, list(range(10)))
    found = read(data)
    there = pickle.loads(data, encoding="latin1")
    assert found.keys() == there.keys() == {"batch_label", "labels", "data", "filenames"}
    assert np.array_equal(found["data"], images)
    assert np.array_equal(there["data"], images)
    assert all(found[k] == there[k] for k in ("batch_label", "labels", "filenames"))


def test_keys_of_bytes_are_names_too():
    assert read(pickle.dumps({b"data": 1, 3: 4}, 2)) == {"data": 1}


# Nothing runs


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def hostile(mark: Path) -> list[object]:
    """Values each of which makes the file ``mark`` when it is unpickled."""
    python = f"open({str(mark)!r}, 'w').close()"
    return [
        Payload(os.system, f"touch '{mark}'"),
        Payload(exec, python),
        Payload(eval, python.replace(".close()", "")),
        Payload(subprocess.check_call, ["touch", str(mark)]),
        Payload(open, str(mark), "w"),
        Payload(np.save, str(mark), np.zeros(1)),
        Payload(np.memmap, str(mark), "u1", "w+", 0, (1,)),
    ]


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_what_would_run_does_not(tmp_path, number, protocol):
    mark = tmp_path / "it ran"
    data = pickle.dumps({"data": hostile(mark)[number], "labels": []}, protocol)
    with pytest.raises(
        DataError, match=r"a file holds Python objects that could run code, so it was not loaded"
    ) as error:
        read(data)
    assert str(error.value).isprintable()
    assert not list(tmp_path.iterdir())
    if protocol >= 2:
        assert "it names" in str(error.value)
    value = pickle.loads(data)  # the control: the payload works
    assert [p for p in tmp_path.iterdir() if p.name.startswith("it ran")]
    getattr(value["data"], "close", lambda: None)()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "builtins eval",
        "builtins getattr",
        "numpy load",
        "numpy.core.multiarray scalar",
        "numpy ndarray.tofile",
    ],
)
def test_other_names_are_refused_even_if_nothing_is_called(name):
    module, _, attribute = name.partition(" ")
    for named in (
        f"c{module}\n{attribute}\n".encode(),
        b"".join(b"\x8c" + bytes([len(n)]) + n.encode() for n in (module, attribute)) + b"\x93",
    ):
        with pytest.raises(DataError, match="it names "):
            read(b"\x80\x04}\x8c\x01x" + named + b"s.")


def test_objects_of_numbers_and_of_python_in_an_array_are_refused():
    for value in (np.array([{}], dtype=object), np.zeros(2, dtype="u1,i4"), np.array(["text"]), np.datetime64("2020")):
        with pytest.raises(DataError, match=r"could run code|damaged"):
            read(pickle.dumps({"data": np.asarray(value)}, 4))


# Nothing fills the memory

U1 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
BOMBS = {
    "an array of a terabyte": b"\x80\x02}U\x01x" + ARRAY + b"(K\x01\x8a\x06\0\0\0\0\0\1\x85" + U1 + b"\x89U\x00tbs.",
    "a shape of a terabyte, not filled": b"\x80\x02}U\x01xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x06\0\0\0\0\0\1\x85U\x01b\x87Rs.",
    "a text of 2 GB": b"\x80\x02}U\x01xT\xff\xff\xff\x7fs.",
    "bytes of 8 EB": b"\x80\x04}\x8c\x01x\x8e\xff\xff\xff\xff\xff\xff\xff\x7fs.",
    "a place far out": b"\x80\x02}r\xff\xff\xff\xffU\x01xK\x01s.",
    "a type of a gigabyte": b"\x80\x02}U\x01xcnumpy\ndtype\nU\x0c1000000000u1K\x00K\x01\x87Rs.",
    "a bytearray of a gigabyte": b"\x80\x02}U\x01xcbuiltins\nbytearray\nJ\x00\xca\x9a\x3b\x85Rs.",
    "a key of tuples of tuples": b"\x80\x02}K\x01K\x01\x86" + b"2\x86" * 60 + b"K\x01s.",
    "tuples of tuples": b"\x80\x02}K\x01K\x01\x86q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s.",
    "lists in lists": b"\x80\x02}U\x01x" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
    "a list that holds itself": b"\x80\x02}U\x01x]q\x00h\x00as.",
}


# Read without harm: what they declare is never made.
HARMLESS = {"a shape of a terabyte, not filled", "a place far out", "lists in lists", "a list that holds itself"}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_file_declares_takes_no_memory(name):
    tracemalloc.start()
    told = refused(BOMBS[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (told is None) == (name in HARMLESS)
    assert told is None or (told.isprintable() and len(told) < 600)
    assert peak < 50_000_000


def test_too_many_instructions_are_refused(monkeypatch):
    monkeypatch.setattr(plain_pickle, "_MOST_STEPS", 1000)
    with pytest.raises(DataError, match="more than 1,000 instructions"):
        read(pickle.dumps({"x": [1] * 2000}))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "damaged or no pickle"),
        (b"not a pickle", "damaged or no pickle|could run code"),
        (pickle.dumps([1]), "holds no dict"),
        (pickle.dumps({"x": 1})[:-1], "damaged"),
        (pickle.dumps({"x": np.arange(99)})[:-30], "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02}h\x07.", "damaged"),
        (b"\x80\x02K\x01K\x02a.", "could run code"),
        (b"\x80\x02}(K\x01u.", "damaged"),
    ],
)
def test_damaged_pickles(data, told):
    with pytest.raises(DataError, match=told):
        read(data)


WHOLE = pickle.dumps(
    {"data": np.arange(64, dtype=np.uint8).reshape(2, 32), "labels": [1, 2], "filenames": ["a", "b"]}, 4
)


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 99)
)
@settings(max_examples=1000, deadline=None)
def test_a_damaged_pickle_is_read_or_refused_in_words(changes, cut):
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    assert (refused(bytes(data[: len(data) - cut]) if cut < 20 else bytes(data)) or "read").isprintable()


def test_the_unpickler_is_never_made(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("an unpickler")

    for name in ("Unpickler", "_Unpickler", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    assert read(WHOLE)["labels"] == [1, 2]
