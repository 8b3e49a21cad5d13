"""Checkpoint files: everything documented comes back, nothing in them is ever run, and no damage becomes a weight."""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest

from raysweep.errors import CheckpointError, NotFoundError, StoreError
from raysweep.store import checkpoint
from tests.store.making import failing, temps


def a_state() -> dict:
    """Every kind of value a checkpoint holds, small."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3, 8)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "best_acc": 0.75,
        "history": {"val_acc": [0.5, 0.75], "worst": [0.25, None]},
        "config": {"experiment_name": "Gefühl", "sampling_weights": {"angry": 1.0}},
        "timestamp": "20250108_143022",
        "rng_state": [torch.get_rng_state(), (3, tuple(range(10)), None)],
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
        "large": 2**70,
        "flag": True,
    }


def same(a, b) -> bool:
    """Equal in value and kind, tensors bit for bit."""
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def saved(value, **options) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoint_epoch_3.pt"


@pytest.fixture
def never_unpickled(monkeypatch):
    """Fail if a file reaches torch at all: it has to be refused by its container."""
    import torch

    def load(*args, **kwargs):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", load)


class RunsCode:
    """What an attacker puts into a pickle: building it calls any function."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_everything_comes_back_with_weights_only(path):
    import torch

    state = a_state()
    size, digest = checkpoint.write(path, state)
    data = path.read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert same(checkpoint.read_checkpoint(path), state)
    assert same(torch.load(path, weights_only=True), state)  # for anybody, without this package


def test_what_same_means_is_strict():
    import torch

    assert not same({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 1e-45])})
    assert not same({"a": (1,)}, {"a": [1]})
    assert not same(a_state() | {"epoch": 4}, a_state())


def test_a_failed_write_leaves_the_old_checkpoint(path, monkeypatch):
    checkpoint.write(path, {"epoch": 1})
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(StoreError, match=f"{path.name}: No space left"):
            checkpoint.write(path, {"epoch": 2})
    assert checkpoint.read(path) == {"epoch": 1}
    assert temps(path.parent) == []


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "as a key", "within a tensor dict"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(path, tmp_path, form):
    import torch

    marker = tmp_path / "was-run"
    evil = RunsCode(marker)
    if form == "zip":
        path.write_bytes(saved(a_state() | {"history": evil}))
    elif form == "legacy":
        path.write_bytes(saved({"epoch": evil}, _use_new_zipfile_serialization=False))
    elif form == "bare pickle":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    elif form == "as a key":
        path.write_bytes(saved({evil: 1}))
    else:
        path.write_bytes(saved({"model_state_dict": collections.OrderedDict(w=[torch.zeros(2), evil])}))
    with pytest.raises(CheckpointError, match=r"Python objects that could run code, so it was not loaded .*system"):
        checkpoint.read(path)
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):  # what it comes to afterwards
        torch.load(path, weights_only=False)  # the attack is real: this is what an unsafe reader does
    assert marker.exists()


@pytest.mark.parametrize(
    "make",
    [lambda torch: torch.nn.Linear(2, 2), lambda torch: Path("x"), lambda torch: os.getcwd],
    ids=["module", "path", "function"],
)
def test_any_other_object_is_refused_by_name(path, make):
    import torch

    path.write_bytes(saved({"config": make(torch)}))
    with pytest.raises(CheckpointError, match=r"could run code.*\([Uu]nsupported.*(Linear|Path|getcwd)"):
        checkpoint.read(path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_damaged(path, share, legacy):
    data = saved(a_state(), _use_new_zipfile_serialization=not legacy)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"(is empty|damaged).*Take another checkpoint"):
        checkpoint.read(path)


def test_no_flipped_bit_changes_what_is_read(path):
    # Where no manifest tells the hash (a file that was sent to somebody) the format's own checksums have to.
    import torch

    state = {"weights": torch.arange(64.0), "epoch": 3, "name": "x" * 50}
    whole = saved(state)
    inside = whole.find(torch.arange(64.0).numpy().tobytes())
    rng = random.Random(0)
    refused = 0
    for at in [inside + 17, *(rng.randrange(len(whole)) for _ in range(150))]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = checkpoint.read(path)
        except CheckpointError:
            refused += 1
        else:  # a bit that means nothing, such as a date
            assert same(read, state), f"the bit flipped at byte {at} went unseen"
            assert at != inside + 17
    assert refused > 50


def test_a_file_that_torch_wrote_without_checksums_is_still_read(path):
    import torch

    torch.serialization.set_crc32_options(False)
    try:
        path.write_bytes(saved({"epoch": 3}))
    finally:
        torch.serialization.set_crc32_options(True)
    assert checkpoint.read(path) == {"epoch": 3}


@pytest.mark.parametrize(
    "data",
    [
        b"just some text, not a checkpoint",
        b"\x93NUMPY\x01\x00",
        random.Random(0).randbytes(300),
        b"PK\x03\x04" + b"\0" * 60,
    ],
)
def test_what_is_no_checkpoint_is_not_called_an_attack(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.read(path)


def zip_with(path: Path, compression: int, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)


@pytest.mark.usefixtures("never_unpickled")
def test_a_zip_bomb_is_refused_before_it_is_unpacked(path, monkeypatch):
    zip_with(path, zipfile.ZIP_DEFLATED, bytes(30_000_000))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(zipfile.ZipExtFile, "read", failing(errno.ENOMEM))  # nothing may be unpacked to find out
    with pytest.raises(CheckpointError, match=r"would unpack to more than its [0-9,]+ bytes"):
        checkpoint.read(path)


@pytest.mark.usefixtures("never_unpickled")
def test_a_zip_whose_parts_overlap_is_refused(path):
    # The other kind of bomb: many directory entries that all mean the same stored bytes.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"x" * 10_000)
        one = archive.infolist()[0]
        archive.filelist += [one] * 50
    with pytest.raises(CheckpointError, match="would unpack to more"):
        checkpoint.read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.sparse_coo_tensor([[0]], [1.0], (10**12,)),
        lambda torch: torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 10**9)),
        lambda torch: torch.empty(10**12, device="meta"),
        lambda torch: torch.zeros(1).expand(10**12),
        lambda torch: [torch.zeros(1).expand(10**4) for _ in range(10)],
    ],
    ids=["sparse", "csr", "meta", "expanded", "many expanded"],
)
def test_a_tiny_file_cannot_declare_a_huge_tensor(path, make):
    import torch

    path.write_bytes(saved({"model_state_dict": {"w": make(torch)}}))
    assert path.stat().st_size < 50_000
    with pytest.raises(CheckpointError, match=r"(not dense|bytes more than the file has).*it was not loaded"):
        checkpoint.read(path)


def test_a_declared_size_that_the_file_does_not_have_is_refused(path):
    import torch

    whole = saved({"w": torch.zeros(1000)}, _use_new_zipfile_serialization=False)
    numel = b"M" + (1000).to_bytes(2, "little")  # the pickled number of elements
    assert whole.count(numel) == 2
    path.write_bytes(whole.replace(numel, b"\x8a\x06" + (2 * 10**12).to_bytes(6, "little")))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.read(path)


def test_ordinary_views_and_shared_tensors_are_no_attack(path):
    import torch

    base = torch.arange(12.0)
    state = {
        "view": base[2:5],
        "transposed": base.view(3, 4).t(),
        "row": base.expand(1, 12),
        "few": torch.ones(1).expand(5),
    }
    circle: list = [state]
    circle.append(circle)
    path.write_bytes(saved(circle))
    assert same(checkpoint.read(path)[0], state)


def test_a_checkpoint_must_have_the_documented_keys(path):
    state = a_state()
    del state["history"], state["timestamp"]
    checkpoint.write(path, state)
    with pytest.raises(CheckpointError, match="lacks history, timestamp"):
        checkpoint.read_checkpoint(path)
    checkpoint.write(path, a_state()["model_state_dict"])
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        checkpoint.read_checkpoint(path)
    checkpoint.write(path, [1, 2])
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        checkpoint.read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(NotFoundError, match=f"no checkpoint {path}"):
            checkpoint.read(path)
