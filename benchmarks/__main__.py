"""``python -m benchmarks [NAME …]``: run some comparisons, or all, and print one table."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks import measuring

# name → how often by default, and what it compares
NAMES = {
    "epoch": (6, "an epoch in one process, saving and feeding: bare loop, JPEGs, Lightning, transformers"),
    "distributed": (5, "an epoch on two workers: torchrun with DDP"),
    "start": (5, "the command to its first step: the import of torch"),
    "sweep": (3, "sixteen branches: bare loops, and Ray's documented pattern"),
}


def main() -> None:
    names = "\n".join(f"  {name:<12} {text}" for name, (_, text) in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"{names}\n\nOptions of one: python -m benchmarks.NAME --help. Also python -m benchmarks.catalog, a table of its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is named")
    parser.add_argument("--repeats", type=int, help="of each comparison")
    parser.add_argument("--json", type=Path, help="write every figure into this file")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(
            f"there is no comparison {unknown[0]!r} here; there are {', '.join(NAMES)} (and benchmarks.catalog)"
        )
    rows: list[measuring.Row] = []
    for name in options.names or NAMES:
        rows += importlib.import_module(f"benchmarks.{name}").compare(options.repeats or NAMES[name][0])
    measuring.show(rows, options.json)


if __name__ == "__main__":
    main()
