"""Checkpoints are judged before they are loaded: what their pickles call and declare, and afterwards what each key holds."""

from __future__ import annotations

import codecs
import collections
import contextlib
import io
import os
import pickle
import random
import struct
import time
import warnings
import zipfile
from pathlib import Path

import pytest

from raysweep.errors import CheckpointError
from raysweep.store import checkpoint
from raysweep.store.untrusted import pickle_check, schema
from tests.store.test_checkpoint import a_state, same, saved

numpy = pytest.importorskip("numpy")


class Calls:
    """Building it calls a function that torch would let through."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def in_zip(program: bytes, **parts: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"data.pkl": program, "version": b"3\n", **parts}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def pickled(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


LAUGHS = b")" + b"q\x00h\x00\x86" * 40  # a tuple that is 2**40 tuples when it is hashed
WIDE = b")" + b"".join(b"q\x00" + b"(" + b"h\x00" * 1000 + b"t" for _ in range(3))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "sent.pt"


@pytest.fixture
def never_loaded(monkeypatch):
    import torch

    def load(*args, **kwargs):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", load)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        (bytearray, 10**9),
        ("FloatTensor", 4 * 10**8),  # of torch
        ("UntypedStorage", 10**9),
        (codecs.encode, "字" * 1000, "punycode"),
        (codecs.encode, "x", "latin1"),  # bytes are no value of a checkpoint
        (collections.Counter, "ab"),
        (set, [1]),
        (os.getcwd,),
    ],
    ids=lambda call: call[0] if isinstance(call[0], str) else call[0].__name__,
)
def test_what_no_checkpoint_calls_is_refused_before_it_is_loaded(path, call, legacy):
    import torch

    function = getattr(torch, call[0]) if isinstance(call[0], str) else call[0]
    path.write_bytes(saved({"x": Calls(function, *call[1:])}, _use_new_zipfile_serialization=not legacy))
    with pytest.raises(CheckpointError, match=r"could run code, so it was not loaded \(unsupported"):
        checkpoint.read(path)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    ("program", "told"),
    [
        (pickled(b"}", LAUGHS, b"NsN"), "nested too deep"),
        (pickled(b"}", WIDE, b"NsN"), "too many times"),
        (pickled(b"ccollections\nOrderedDict\n", LAUGHS, b"\x85R"), "nested too deep"),
        (pickled(LAUGHS, b"Q"), "nested too deep"),
        (pickled(b"N)R"), "unsupported call of NoneType"),
        (pickled(b"ctorch\nFloatStorage\n)R"), "unsupported call of torch FloatStorage"),
        (pickled(b"ctorch\nSize\n)R}b"), "unsupported change of an object"),
        (pickled(b"ctorch\nSize\n)\x81"), "NEWOBJ is not one of a checkpoint"),
        (pickled(b"X", struct.pack("<I", 2**32 - 1), b"ab"), "expected 4294967295 bytes"),
        (pickled(b"h\x07"), "7"),
        (pickled(b"s"), "empty list"),
        (b"\x80\x02N", "exhausted"),
        (pickle.dumps({"epoch": 1}, protocol=4), "FRAME is not one of a checkpoint"),
    ],
)
def test_pickles_that_would_take_for_ever_to_unpickle(path, program, told):
    path.write_bytes(in_zip(program))
    with pytest.raises(CheckpointError, match=told):
        checkpoint.read(path)
    path.write_bytes(program)
    with pytest.raises(CheckpointError, match=told):
        checkpoint.read(path)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize("legacy", [False, True])
def test_storages_that_are_declared_larger_than_the_file(path, legacy):
    import torch

    whole = saved({"a": torch.zeros(1000), "b": torch.ones(1000)}, _use_new_zipfile_serialization=not legacy)
    program = whole
    if not legacy:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            program = archive.read("archive/data.pkl")
    numel = b"M" + (1000).to_bytes(2, "little")
    program = program.replace(numel, b"J" + (1_000_000).to_bytes(4, "little"))
    path.write_bytes(program if legacy else in_zip(program, **{"data/0": bytes(4000), "data/1": bytes(4000)}))
    with pytest.raises(CheckpointError, match=r"declares tensors of 8,000,000 bytes"):
        checkpoint.read(path)


def test_an_ordered_dict_keeps_its_methods(path):
    import torch

    spoilt = collections.OrderedDict(w=torch.zeros(2))
    spoilt.values = 5  # type: ignore[assignment]
    path.write_bytes(saved(spoilt))
    with pytest.raises(CheckpointError, match="methods are replaced"):
        checkpoint.read(path)


def test_what_is_admitted_is_all_that_checkpoints_hold(path):
    import torch

    model = torch.nn.Linear(2, 2)
    value = {
        "state": model.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "many": [torch.ones(2).to(t) for t in (torch.bfloat16, torch.half, torch.bool, torch.int8, torch.complex64)],
        "few": torch.ones(3).to(torch.float8_e4m3fn),
        "shape": torch.Size([1, 2]),
        "type": torch.float32,
        "where": torch.device("cpu"),
        "plain": [1, -1, 2**70, 1.5, "x", None, True, (1, (2, 3))],
    }
    for legacy in (False, True):
        if legacy:
            del value["few"]  # which that format does not have
        path.write_bytes(saved(value, _use_new_zipfile_serialization=not legacy))
        read = checkpoint.read(path)
        assert same(read["state"], value["state"])
        assert read["plain"] == value["plain"]
        assert read["many"][0].dtype == torch.bfloat16


def test_numpy_scalars_of_old_files_are_admitted_only_where_that_is_asked_for(path):
    path.write_bytes(saved(a_state() | {"best_acc": numpy.float64(0.5)}, _use_new_zipfile_serialization=False))
    with pytest.raises(CheckpointError, match=r"unsupported global numpy\.\w+\.multiarray\.scalar"):
        checkpoint.read(path)
    found = checkpoint.read_checkpoint(path)["best_acc"]
    assert (found, type(found)) == (0.5, float)
    path.write_bytes(saved({"x": Calls(codecs.encode, "字" * 1000, "punycode")}))
    with pytest.raises(CheckpointError, match="unsupported bytes"):
        checkpoint.read(path, pickle_check.LEGACY)
    path.write_bytes(saved({"x": Calls(numpy.dtype, "(99999,99999)f8")}))
    with pytest.raises(CheckpointError, match="unsupported type of a number"):
        checkpoint.read(path, pickle_check.LEGACY)


@pytest.mark.parametrize(
    "make",
    [
        lambda torch: bytes(1000),
        lambda torch: in_zip(b"\x80\x02}.", **{"constants.pkl": b"x"}),
        lambda torch: saved({"w": torch.ones(2).to_sparse()}),
    ],
    ids=["zeros", "TorchScript", "sparse"],
)
def test_no_advice_of_torch_stands_before_the_error(path, make):
    import torch

    path.write_bytes(make(torch))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match=r"sent\.pt is damaged or not a checkpoint|not dense"):
            checkpoint.read(path)


def test_no_random_instructions_crash_the_reader(path):
    rng = random.Random(0)
    with zipfile.ZipFile(io.BytesIO(saved(a_state()))) as archive:
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    whole = parts.pop("data.pkl")
    pieces = [b"R", b"b", b"t", b"\x86", b"(", b"u", b"s", b"a", b"Q", b")", b"N", b"h\x00", b"ctorch\nSize\n", b"\x81"]
    for _ in range(300):
        program = bytearray(whole)
        for _ in range(rng.choice((1, 2, 5))):
            at = rng.randrange(len(program))
            program[at : at + rng.randrange(3)] = rng.choice(pieces)
        path.write_bytes(in_zip(bytes(program), **parts))
        try:
            checkpoint.read_checkpoint(path)
        except CheckpointError:
            continue


# What the keys hold


def deep(levels: int = 60):
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def laughs():
    value = ["ha"]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("epoch", "three", "epoch must be a whole number from 0 to 1,000,000,000, not 'three'"),
        ("epoch", -5, "epoch must be a whole number"),
        ("epoch", True, "epoch must be a whole number"),
        ("best_acc", float("nan"), "best_acc must be a number, not nan"),
        ("threads", "many", "threads must be a whole number"),
        ("classes", ["a", "a"], "classes must be 1 to 10,000 different names"),
        ("classes", ["a\x1b[2J"], "classes is wrong: the name of class"),
        ("classes", [f"c{i}" for i in range(10_001)], "10,001"),
        ("sampling_weights", {"a": 1.0}, "sampling_weights does not name the same classes as classes"),
        ("sampling_weights", {"a": laughs(), "b": 1}, "the weight of class 'a' must be a number ≥ 0"),
        ("sampling_weights", {"a": -1, "b": 1}, "the weight of class 'a' must be a number ≥ 0, not -1"),
        ("history", {"val_acc": 7}, "the column 'val_acc' must be a list of numbers, not 7"),
        ("history", {"val_acc": ["=cmd()"]}, "the column 'val_acc' must be a list of numbers"),
        ("config", "x", "config must be a mapping, not 'x'"),
        ("config", {"parent": {"experiment": "x"}}, r"config\.parent\.epoch is missing"),
        ("config", {"num_epochs": float("inf")}, r"config\.num_epochs must be a whole number"),
        ("config", {"settings": {"training": {"x": laughs()}}}, r"config\.settings\.training\.x is nested"),
        ("config", {"settings": {"x": deep()}}, r"config\.settings\.x is nested"),
        ("model_state_dict", {"w": 1}, "the value of 'w' must be a tensor, not 1"),
        ("optimizer_state_dict", {"state": {}}, r"optimizer_state_dict\.param_groups is missing"),
        ("preprocessing", {"mean": [0.5], "std": [0]}, r"preprocessing\.std must be one number above zero"),
        ("sampler_state", {"meters": [[1, 2]]}, r"sampler_state\.meters must be four numbers"),
        ("current_batch", None, "current_batch must be a whole number"),
    ],
)
def test_a_key_that_holds_something_else_is_named_with_the_file(path, key, value, told):
    ours = {"classes": ["a", "b"], "sampling_weights": {"a": 1.0, "b": 2}, "current_batch": 0}
    path.write_bytes(saved(a_state() | ours))
    checkpoint.read_checkpoint(path)
    path.write_bytes(saved(a_state() | ours | {key: value}))
    with pytest.raises(
        CheckpointError, match=rf"sent\.pt does not have the content of a checkpoint: .*{told}"
    ) as error:
        checkpoint.read_checkpoint(path)
    assert len(str(error.value)) < 600


def test_a_circle_has_an_end():
    circle: dict = {}
    circle["x"] = [circle]
    with pytest.raises(CheckpointError, match="nested deeper"):
        schema.check(circle, "sent.pt")


def test_tuples_that_share_their_parts_are_read_once_each(path):
    """Thirty levels of pairs have a billion leaves when written out; numbers of numpy are looked for in each once."""
    value: tuple = (1,)
    for _ in range(20):
        value = (value, value)
    path.write_bytes(saved(a_state() | {"extra": value}))
    began = time.process_time()
    with contextlib.suppress(CheckpointError):  # refused for what it would be if it were written out, or read
        checkpoint.read_checkpoint(path)
    assert time.process_time() - began < 2
