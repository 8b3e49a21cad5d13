"""Controls: the attacks are real, and what is asserted can fail."""

from __future__ import annotations

import sys
import time
from functools import partial

import yaml

from tests.cli.hostile.cases import Room, Work, add
from tests.cli.hostile.pickles import hub, payload
from tests.cli.hostile.texts import yaml_code

LIMIT_BYTES = 300_000_000
LONGEST = 2000  # characters of an error: a longer one is the attacker's text


def unsafe_pickle(room: Room) -> Work:
    import torch

    path = str(room.poisoned(history=payload(room))[2])
    return lambda: torch.load(path, weights_only=False)


def unsafe_yaml(room: Room) -> Work:
    return partial(yaml.unsafe_load, yaml_code(room))


def unsafe_function(room: Room) -> Work:
    import torch

    return partial(torch.hub.load, num_classes=3, channels=1, **hub(room))


def misbehaves(room: Room) -> Work:
    (room.outside / "x").write_text("")

    def work() -> None:
        (room.root / "half").mkdir()
        (room.outside / "x").write_text("touched")
        print("two\nlines \x1b", file=sys.stderr)
        raise SystemExit(2)

    return work


def fails(room: Room) -> Work:
    def work() -> None:
        raise RuntimeError("x" * LONGEST)

    return work


# Control → what must be found wrong with it.
CONTROLS = {
    "control: an unsafe reader runs the pickle": "the payload ran",
    "control: an unsafe YAML reader runs the tag": "the payload ran",
    "control: the Python function runs": "the payload ran",
    "control: with --trust the stranger's code runs": "the payload ran",
    "control: a hang is seen": "it took more than 0.5 s",
    "control: memory is seen": "it filled 4[0-9]{2} MB",
    "control: what was made and touched is seen": "characters that steer.*outside.*'x'.*paragraph.*root: .*half",
    "control: a traceback is seen": "exit code 1.*a traceback.*'what' is not in the output.*an error of 2,",
    "control: the checkpoint without poison": "$",
}
add("control: an unsafe reader runs the pickle", "", unsafe_pickle, 0)
add("control: an unsafe YAML reader runs the tag", "", unsafe_yaml, 0)
add("control: the Python function runs", "", unsafe_function, 0)
add("control: a hang is seen", "", lambda room: partial(time.sleep, 60), 0, limit_s=0.5)
add("control: memory is seen", "", lambda room: partial(bytearray, LIMIT_BYTES * 4 // 3), 0)
add("control: what was made and touched is seen", "", misbehaves, 2)
add("control: a traceback is seen", "what", fails, 2)
add("control: the checkpoint without poison", "Best: epoch 2", lambda room: room.poisoned(), 0)
