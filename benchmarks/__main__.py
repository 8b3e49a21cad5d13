"""``python -m benchmarks NAME``: run one comparison; without a name, say which there are."""

from __future__ import annotations

import runpy
import sys

NAMES = {
    "epoch": "an epoch: ours, a bare loop, and JPEGs through a DataLoader; saving and feeding alone",
    "sweep": "sixteen branches: our sweep, bare loops, and Ray's documented pattern",
    "catalog": "list 10,000 experiments: our index over folders, and MLflow's SQLite store",
}

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    print("python -m benchmarks NAME [--help]\n" + "\n".join(f"  {n:<10} {text}" for n, text in NAMES.items()))
    sys.exit(0 if len(sys.argv) < 2 else 2)
name = sys.argv.pop(1)
runpy.run_module(f"benchmarks.{name}", run_name="__main__")
