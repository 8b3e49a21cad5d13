"""The options of how an experiment is run: which checkpoints stay, and on what it trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raysweep.config.types import Float, Int, Positive, Section, Text, Workers


class KeepSection(Section):
    last: Positive = Field(3, description="Keep this many newest epochs.")
    every: Positive | None = Field(None, description="Also keep every epoch that is a multiple of this number.")


class CheckpointSection(Section):
    every_n_batches: Positive | None = Field(
        None, description="Also save a checkpoint within the epoch each time this many batches are done."
    )
    keep: Literal["all"] | KeepSection = Field(
        "all",
        description="all, or a rule such as {last: 3, every: 5}. The best epoch, and any checkpoint that a child or sweep starts "
        "from, is always kept.",
    )
    epoch_models: bool = Field(
        True,
        description="Also write epoch_N_model.pt, the weights of all of the network without the training's state, for each epoch. false: "
        "not; with a frozen backbone an epoch then takes a fraction of the disk, and `raysweep export` makes such a file at any time.",
    )


class ScalingSection(Section):
    num_workers: Workers = Field(
        "auto",
        description="0: train in this process; n: n Ray workers; [2, 8]: 2 to 8 Ray workers, as many as fit when an attempt "
        "starts; auto: one Ray worker per GPU, or this process if there is no GPU.",
    )
    threads: Literal["auto"] | Positive = Field(
        "auto",
        description="CPU threads per worker; auto: all CPUs that the worker has, or OMP_NUM_THREADS where that is less.",
    )
    profile: bool = Field(
        False, description="Measure what the time is spent on, and how far it is from what this machine can compute."
    )
    use_gpu: Literal["auto"] | bool = Field("auto", description="auto: use GPUs if every worker can have one.")
    address: Text | None = Field(None, description="Address of an existing Ray cluster, or 'auto' to find it.")
    sync_batchnorm: bool = Field(
        True,
        description="Compute batch normalization statistics over all workers, so that results do not depend on their number.",
    )
    timeout_s: Annotated[Float, Field(gt=0)] = Field(
        600.0, description="Treat a worker as hung, and end the attempt, after this many seconds without an answer."
    )
    max_failures: Annotated[Int, Field(ge=0, le=1_000_000)] = Field(
        3,
        description="How often to restart training after a worker is lost (killed, hung, out of memory, or its node is gone).",
    )
    wait_for_nodes_s: Literal["auto"] | Annotated[Float, Field(ge=0)] = Field(
        "auto",
        description="How many seconds to wait for missing nodes. auto: 900 if the cluster has an autoscaler; else 0 at the start "
        "and 60 after a node is lost.",
    )
