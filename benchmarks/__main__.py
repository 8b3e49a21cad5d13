"""``python -m benchmarks [NAME …]``: run the named comparisons, or all of them, and print one table."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks import measuring

# name → default number of repeats, and what it compares
NAMES = {
    "epoch": (6, "an epoch in one process, data loading: bare loop, JPEGs, Lightning, transformers"),
    "saving": (5, "for how long a checkpoint blocks training: three torch.save, Lightning, transformers"),
    "distributed": (5, "an epoch on two workers: torchrun with DDP"),
    "start": (5, "from the command to the first training step: the import of torch"),
    "catalog": (7, "help, and listing 10,000 experiments: limits in seconds, on an idle machine"),
    "waiting": (7, "threads that sleep while they wait, alone and beside busy processes: GCC's default"),
    "encoded": (3, "encoded images, decoded ahead: a DataLoader of two workers"),
    "sweep": (3, "sixteen branches: bare loops, and Ray's documented pattern"),
    "features": (3, "a hundred head-only branches on features computed once: bare loops, full passes"),
    "answer": (3, "from the prompt to the verdict of 14 branches, by Ray and without, quiet and busy: bare loops"),
}


def main() -> None:
    names = "\n".join(f"  {name:<12} {text}" for name, (_, text) in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"{names}\n\nOptions of one comparison: python -m benchmarks.NAME --help. For example python -m benchmarks.catalog also lists MLflow's store.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="the comparisons to run (default: all)")
    parser.add_argument("--repeats", type=int, help="repeats of each comparison")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no comparison {unknown[0]!r}; choose from {', '.join(NAMES)}")
    rows: list[measuring.Row] = []
    for name in options.names or NAMES:
        rows += importlib.import_module(f"benchmarks.{name}").compare(options.repeats or NAMES[name][0])
    measuring.show(rows, options.json)


if __name__ == "__main__":
    main()
