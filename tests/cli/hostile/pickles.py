"""Hostile checkpoints: pickles that run code, small files that declare much, damaged and foreign ones."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.cli.hostile.cases import CASES, Room, Work, add, saved
from tests.conftest import SMALL_NET

if TYPE_CHECKING:
    import torch


class Calls:
    """What an attacker puts into a pickle: building it calls any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payload(room: Room) -> Calls:
    return Calls(os.system, f"touch '{room.marker}'")


def torch_zip(
    program: bytes, compression: int = zipfile.ZIP_STORED, times: int = 0, record: bytes = b"", name: str = "data/0"
) -> bytes:
    """A file in torch's container with this pickle program, of which so many more entries mean the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.filelist += archive.filelist * times
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        archive.writestr(f"archive/{name}", record)
    return buffer.getvalue()


def laughs(depth: int = 40) -> list[Any]:
    """A few bytes that are 2**depth items when they are written out."""
    value: list[Any] = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


# --- pickles that run code --------------------------------------------------------------------------------------------

CODE = r"sent\.pt holds Python objects that could run code, so it was not loaded .*system.*Only tensors, numbers"


def hub(room: Room) -> dict[str, Any]:
    """Options by which ``torch.hub.load`` runs a file that the attacker brought along; it could also be on GitHub."""
    room.put("hubconf.py", f"import os\ndef build(**options):\n    os.system(\"touch '{room.marker}'\")\n")
    return {"repo_or_dir": str(room.folder), "model": "build", "source": "local"}


def vouched(room: Room) -> Work:
    """The manifest agrees with the poisoned file."""
    data = saved(room.state() | {"history": payload(room)})
    row = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    folder = room.manifest(lambda m: m["checkpoints"][0].update(row))
    (folder / "checkpoint_epoch_1.pt").write_bytes(data)
    return ["verify", folder.name]


def deep_code(room: Room) -> Work:
    nested: Any = payload(room)
    for _ in range(50):
        nested = [{"x": (nested,)}]
    return room.poisoned(optimizer_state_dict=nested)


def init_from(room: Room) -> Work:
    path = room.sent({"w": payload(room)})[2]
    return ["run", room.config(model={**SMALL_NET, "init_from": str(path)})]


def legacy(room: Room) -> Work:
    return room.sent(room.state() | {"config": payload(room)}, _use_new_zipfile_serialization=False)


add("code in a zip", CODE, lambda room: room.poisoned(history=payload(room)))
add("code in the legacy format", CODE, legacy)
add("code in a bare pickle", CODE, lambda room: room.sent(pickle.dumps(payload(room), protocol=2)))
add("code as a key", CODE, lambda room: room.sent({payload(room): 1}))
add("code deep inside", CODE, deep_code)
add(
    "code in the file of init_from",
    r"sent\.pt holds no tensors of a network.*not run.*w \((posix|nt)\.system\)",
    init_from,
)
add("code in a checkpoint that the manifest vouches for", "FAULT .*could run code.*system", vouched, 1)
add(
    "settings in a checkpoint that name a Python function",
    r"sent\.pt.*python:torch\.hub:load.*model\.name=",
    lambda room: room.settings("model", name="python:torch.hub:load", options=hub(room)),
)
add(
    "a TorchScript archive",
    r"sent\.pt (holds|is damaged or not a checkpoint)",
    lambda room: room.sent(torch_zip(b"\x80\x02}.", name="constants.pkl")),
)

# --- the same, as the file of init_from, of which only the tensors are read --------------------------------------------


def started(make: Callable[[Room], Work]) -> Callable[[Room], Work]:
    """A new run that starts from the file of a command that resumes it."""

    def run(room: Room) -> Work:
        command = make(room)
        assert not callable(command)
        return ["run", room.config(model={**SMALL_NET, "init_from": str(command[2])})]

    return run


def endless_modules(room: Room) -> Work:
    """A few hundred bytes that are 2**60 modules when they are counted one by one."""
    import torch

    module = torch.nn.Module()
    for _ in range(60):
        outer = torch.nn.Module()
        outer.add_module("a", module)
        outer.add_module("b", module)
        module = outer
    return room.sent(module)


def endless_names(room: Room) -> Work:
    import torch

    words = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "body.")
    names = [f"{a}{b}{c}{d}w{i}" for a in words for b in words for c in words for d in words for i in range(8)]
    return room.sent({name: torch.zeros(1) for name in names})


add("a network of endless modules for init_from", "no tensors|do not fit", started(endless_modules))
add("names that begin in thousands of ways for init_from", "do not fit the model", started(endless_names))


# --- small files that declare much ------------------------------------------------------------------------------------

UNPACKS, DENSE = r"would unpack to more than its [0-9,]+ bytes", "not dense.*it was not loaded"
DAMAGED = r"sent\.pt is (empty|damaged).*Take another checkpoint"


def enlarged(data: bytes, numel: int) -> bytes:
    """The pickle of a tensor of 1000 numbers, declaring more of them."""
    small = b"M" + (1000).to_bytes(2, "little")
    assert data.count(small) == 2  # the storage's and the tensor's
    return data.replace(small, b"\x8a\x06" + numel.to_bytes(6, "little"))


def beyond_its_record(room: Room) -> Work:
    import torch

    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(1000)}))) as archive:
        program = archive.read("archive/data.pkl")
    return room.sent(torch_zip(enlarged(program, 10**9), record=bytes(4000)))


def beyond_the_file(room: Room) -> Work:
    import torch

    return room.sent(enlarged(saved({"w": torch.ones(1000)}, _use_new_zipfile_serialization=False), 500_000_000))


def tensor(make: Callable[[Any], torch.Tensor]) -> Callable[[Room], Work]:
    """A checkpoint with the tensor that ``make`` builds when it is given torch."""

    def sent(room: Room) -> Work:
        import torch

        return room.sent({"model_state_dict": {"w": make(torch)}})

    return sent


add("a deflated zip bomb", UNPACKS, lambda room: room.sent(torch_zip(bytes(400_000_000), zipfile.ZIP_DEFLATED)))
add("a zip whose parts overlap", UNPACKS, lambda room: room.sent(torch_zip(bytes(1_000_000), times=2000)))
add(
    "a sparse tensor",
    DENSE,
    tensor(lambda torch: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**12,))),
)
add("a compressed sparse tensor", DENSE, tensor(lambda torch: torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 10**9))))
add("a tensor without data", DENSE, tensor(lambda torch: torch.empty(10**12, device="meta")))
add("one number spread over terabytes", "more than the file has", tensor(lambda torch: torch.zeros(1).expand(10**12)))
add("a legacy file that declares a storage of 2 GB", DAMAGED, beyond_the_file)
add("a zip that declares a storage beyond its record", DAMAGED, beyond_its_record)
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "declares a string of 4 GB": (b"X" + struct.pack("<I", 2**32 - 1) + b"ab", DAMAGED),
    "declares a string of 2**60": (b"\x8d" + struct.pack("<Q", 2**60) + b"ab", DAMAGED),
    "nests lists": (b"]" * 200_000 + b"a" * 199_999, "not a complete checkpoint"),
    "nests tuples": (b")" + b"\x85" * 200_000, "not a complete checkpoint"),
}
for label, (program, told) in PROGRAMS.items():
    add(f"a pickle that {label}", told, lambda room, p=program: room.sent(torch_zip(b"\x80\x02" + p + b".")))  # type: ignore[misc]
for label in (
    "a deflated zip bomb",
    "a zip whose parts overlap",
    "one number spread over terabytes",
    "a zip that declares a storage beyond its record",
):
    add(f"{label} for init_from", r"sent\.pt", started(CASES[label].make))
for label in (
    "a tensor without data",
    "a sparse tensor",
    "a legacy file that declares a storage of 2 GB",
    *(f"a pickle that {p}" for p in PROGRAMS),
):
    add(f"{label} for init_from", r"sent\.pt", started(CASES[label].make))
# Functions that torch admits in a pickle, since bytes and tensors are made by them.
CALLS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "makes a gigabyte of nothing": lambda torch: (bytearray, 10**9),
    "makes a tensor of nothing": lambda torch: (torch.FloatTensor, 4 * 10**8),
    "calls a codec that takes hours": lambda torch: (
        codecs.encode,
        "".join(map(chr, range(0x4E00, 0x9E00))),
        "punycode",
    ),
}


def calling(call: Callable[[Any], tuple[Any, ...]]) -> Callable[[Room], Work]:
    def sent(room: Room) -> Work:
        import torch

        return room.poisoned(rng_state=[Calls(*call(torch))])

    return sent


for label, call in CALLS.items():
    told = r"sent\.pt.*(damaged|more than the file has|could run code)"
    add(f"a pickle that {label}", told, calling(call))
add("a pickle of protocol 4", DAMAGED, lambda room: room.sent(pickle.dumps({"epoch": 1}, protocol=4)))
add(
    "weights that are a billion laughs",
    "weight of class 'cat'",
    lambda r: r.poisoned(sampling_weights={"cat": laughs()}),
)
add(
    "settings that are a billion laughs", r"training\.batch_size", lambda r: r.settings("training", batch_size=laughs())
)
add(
    "settings that declare a network of a gigabyte",
    "do not fit",
    lambda room: room.settings("model", options={"widths": [4, 4, 8, 5500]}),
)
add(
    "settings that declare a trillion images an epoch",
    "samples_per_epoch",
    lambda room: room.settings("sampling", samples_per_epoch=10**12),
)

# --- damaged and foreign files ----------------------------------------------------------------------------------------


def damaged(change: Callable[[bytearray], object]) -> Callable[[Room], Work]:
    def make(room: Room) -> Work:
        data = bytearray(saved(room.state()))
        change(data)
        return room.sent(bytes(data))

    return make


def flip(data: bytearray) -> None:
    """In the middle of the longest part, since what fills the space between parts stands for nothing."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part = max(archive.infolist(), key=lambda p: p.file_size)
    name, extra = struct.unpack_from("<HH", data, part.header_offset + 26)
    data[part.header_offset + 30 + name + extra + part.file_size // 2] ^= 1


def cut(share: float, data: bytearray) -> None:
    del data[int(len(data) * share) :]


for share in (0, 0.01, 0.5, 0.99):
    add(f"cut at {share:.0%}", DAMAGED, damaged(partial(cut, share)))
add("a flipped bit", DAMAGED, damaged(flip))
add("a web page", DAMAGED, lambda room: room.sent(b"<html>404</html>\n" * 1000))

# What a whole and harmless pickle can hold in the wrong place.
WRONG: dict[str, tuple[str, Any]] = {
    "the epoch is a text": ("epoch", "three"),
    "the epoch is negative": ("epoch", -5),
    "the epoch is infinite": ("epoch", float("inf")),
    "the history is a list": ("history", [1, 2]),
    "the history holds no lists": ("history", {"val_acc": 7}),
    "the config is a text": ("config", "settings"),
    "the settings are empty": ("config", {"settings": {}, "num_epochs": 2}),
    "the epochs to go are infinite": ("config", {"settings": {"training": {}}, "num_epochs": float("inf")}),
    "the classes are a number": ("classes", 3),
    "the classes are no texts": ("classes", [{}, [], None]),
    "the classes steer the terminal": ("classes", ["\x1b[2J\u202e", "a\nerror: b"]),
    "the classes are a hundred thousand": ("classes", [f"class {i}" for i in range(100_000)]),
    "the weights are a list": ("sampling_weights", [1, 2]),
    "the world size is a text": ("world_size", "many"),
    "the thread count is a text": ("threads", "many"),
    "the network is a list": ("model_state_dict", [1, 2]),
    "the network's keys are numbers": ("model_state_dict", {1: 2}),
    "the optimizer is a text": ("optimizer_state_dict", "adam"),
    "the generators are numbers": ("rng_state", [{"python": 1, "numpy": 2, "torch": 3, "cuda": 4}]),
    "the best accuracy is a text": ("best_acc", "best"),
}
for label, (key, value) in WRONG.items():
    add(f"a checkpoint in which {label}", r"sent\.pt|checkpoint", lambda room, k=key, v=value: room.poisoned(**{k: v}))  # type: ignore[misc]
add("a checkpoint called ../x", r"experiment\.name.*not a path", lambda room: room.settings("experiment", name="../x"))
