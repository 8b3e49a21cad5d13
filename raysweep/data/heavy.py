"""Decode an unusually large image in a process of its own, which the kernel keeps within limits of time and memory.

A file of a few kilobytes can ask for gigabytes, or for hours: an image of 13,300 × 13,300 pixels, a JPEG of thousands of
passes. Such images are decoded one at a time; everything else about them is as for others, to the bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.data import pillow
from raysweep.data.pillow import USUAL, Decoded, Geometry

CPU_SECONDS = 60
MEMORY = 3 << 30  # bytes, besides the interpreter
_ONE = threading.Lock()
_COMMAND = "from raysweep.data import heavy; heavy.serve()"


def decode(payload: Path | bytes, size: int, channels: int, geometry: Geometry = USUAL) -> Decoded | str:
    """As :func:`raysweep.data.decode.decode`, for an encoded image that is large."""
    encoded = b"" if isinstance(payload, Path) else payload
    path = str(payload.absolute()) if isinstance(payload, Path) else None
    order = {"path": path, "size": size, "channels": channels, "geometry": geometry}
    order |= {"cpu": CPU_SECONDS, "memory": MEMORY}
    # more threads would need address space for each, and the limit counts it
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    with _ONE:
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND],
            input=json.dumps(order).encode() + b"\n" + encoded,
            capture_output=True,
            env=environment,
        )
    if done.returncode:
        return how_it_ended(done.returncode)
    line, pixels = done.stdout.split(b"\n", 1)
    said = json.loads(line)
    if "reason" in said:
        return str(said["reason"])
    return Decoded(np.frombuffer(pixels, np.uint8).reshape(size, size, channels), *said["facts"])


def how_it_ended(code: int) -> str:
    """Why there is no image where the process ended so."""
    if code == -signal.SIGXCPU:
        return f"decoding it takes more than {CPU_SECONDS} s"
    if code < 0:
        return f"decoding it crashed ({signal.Signals(-code).name})"
    return f"decoding it failed (exit code {code})"


def serve() -> None:
    """The process's part: read what to decode from stdin, write the pixels to stdout."""
    order = json.loads(sys.stdin.buffer.readline())
    payload = sys.stdin.buffer.read() if order["path"] is None else Path(order["path"])
    _limit(order["cpu"], order["memory"])
    try:
        found = pillow.decode_here(payload, order["size"], order["channels"], pillow.Geometry(*order["geometry"]))
        said: dict[str, Any] = {"facts": found[1:]}
        pixels = found.pixels.tobytes()
    except Exception as error:
        said, pixels = {"reason": pillow.reason(error)}, b""
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + pixels)


def _limit(cpu: int, memory: int) -> None:
    try:
        import resource
    except ImportError:  # a system without such limits
        return

    import PIL.Image  # noqa: F401  # what is imported counts as address space, too

    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # the first limit is told by SIGXCPU, the second kills
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux, where the limit has no effect either
        return
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
