"""How many workers, threads and GPUs a run gets. This is decided before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysweep import _machine, _openmp
from raysweep._text import Nested, counted
from raysweep.config.running import ScalingSection
from raysweep.errors import ResourceError
from raysweep.events import Note


@dataclass(frozen=True)
class ResourceOverrides:
    """Resources that a training continues with instead of its own; None keeps its own.

    With other resources the bits of the results may differ, and the log says so.
    """

    threads: int | None = None
    workers: int | list[int] | None = None  # a list: the least and the most
    address: str | None = None  # "local": on this machine instead of a cluster

    def applied(self, scaling: Mapping[str, Any]) -> Nested:
        """The section ``scaling`` of a configuration, with these resources."""
        found = dict(scaling)
        if self.threads is not None:
            found["threads"] = self.threads
        if self.workers is not None:
            found["num_workers"] = self.workers
        if self.address is not None:
            found["address"] = None if self.address == "local" else self.address
        return found

    def named(self) -> Nested:
        """What the user says of them, as nested settings."""
        return {"scaling": self.applied({})}


AS_BEFORE = ResourceOverrides()


@dataclass(frozen=True)
class Resources:
    """The resources of a run, or of one branch."""

    workers: int  # 0: it trains in this process
    cpus: int  # for each worker; 0: not decided yet
    threads: int  # of torch in each worker; 0: not decided yet
    use_gpu: bool
    worker_range: tuple[int, int] | None = None  # the least and the most workers; None: their number is fixed


def gpus_here() -> int:
    """The number of GPUs, of any maker, that torch sees on this machine."""
    from raysweep.training import device

    return device.count()


def gpus_for_ray() -> int:
    """How many of them Ray knows: its workers and branches can be given these."""
    from raysweep.training import device

    return gpus_here() if device.with_workers() else 0


def decide(scaling: ScalingSection) -> Resources:
    """Resources on this machine. With an address, :func:`fit_cluster` completes them once the cluster is connected.

    Raises:
        ResourceError: this machine has too little.
    """
    gpus, cpus = gpus_here(), _machine.cpus_here()
    if gpus and not gpus_for_ray():  # Ray's workers cannot have it, and it is used in this process alone
        gpus = int(scaling.num_workers in ("auto", 0))
        if not gpus and scaling.use_gpu is True and not scaling.address:
            raise ResourceError(
                "Ray's workers can use NVIDIA's and AMD's GPUs only, and this machine has another one. Train in this process "
                "(--workers 0), or on the CPU (scaling.use_gpu=false)."
            )
    wants_gpu = gpus > 0 if scaling.use_gpu == "auto" else scaling.use_gpu
    threads = 0 if scaling.threads == "auto" else scaling.threads
    workers, worker_range = _workers(scaling, gpus if wants_gpu else cpus // (threads or 1), gpus if wants_gpu else 0)
    if scaling.address:
        return Resources(max(1, workers), 0, threads, scaling.use_gpu is True, worker_range)
    _check_here(workers, threads, wants_gpu, gpus, cpus)
    per_worker = max(1, cpus // max(1, workers))
    threads = threads or min(per_worker, _openmp.threads_wanted() or per_worker)
    forbidden = _machine.threads_forbidden(threads)
    if forbidden is not None:
        raise ResourceError(forbidden)
    return Resources(workers, per_worker, threads, wants_gpu, worker_range)


def notes(scaling: ScalingSection, decided: Resources) -> tuple[Note, ...]:
    """What is to be said of the threads that were decided on this machine."""
    if scaling.threads == "auto" and 0 < decided.threads < decided.cpus:
        return (
            Note(
                f"{counted(decided.threads, 'thread')} of {counted(decided.cpus, 'CPU')}, as OMP_NUM_THREADS says. For more: "
                f"scaling.threads={decided.cpus}."
            ),
        )
    return ()


def _workers(scaling: ScalingSection, slots: int, gpus: int) -> tuple[int, tuple[int, int] | None]:
    """How many workers to start, and between which numbers they may vary.

    Args:
        slots: how many workers this machine can hold. gpus: how many GPUs of this machine are to be used.
    """
    if scaling.num_workers == "auto":
        return (gpus if gpus > 1 else int(bool(scaling.address))), None
    if isinstance(scaling.num_workers, list):
        least, most = scaling.num_workers
        return (most if scaling.address else max(least, min(most, slots))), (least, most)
    return scaling.num_workers, None


def _check_here(workers: int, threads: int, wants_gpu: bool, gpus: int, cpus: int) -> None:
    """Raise ResourceError if this machine, with ``gpus`` and ``cpus``, has too little."""
    if wants_gpu and gpus == 0:
        raise ResourceError(
            "scaling.use_gpu is true, but torch sees no GPU on this machine. Set scaling.use_gpu=false."
        )
    if workers > cpus:
        raise ResourceError(
            f"{workers} workers were asked for, but this machine has {counted(cpus, 'CPU')}. Ask for at most {cpus} with "
            "--workers, or name a cluster with --address."
        )
    if wants_gpu and workers > gpus:
        raise ResourceError(
            f"{workers} GPU workers were asked for, but this machine has {counted(gpus, 'GPU')}, and two workers cannot share "
            f"one. Ask for at most {gpus} with --workers, or set scaling.use_gpu=false."
        )
    if threads > cpus:
        raise ResourceError(
            f"scaling.threads is {threads}, but this machine has {counted(cpus, 'CPU')}. Set at most scaling.threads={cpus}."
        )


def fit_cluster(wanted: Resources, nodes: Sequence[Mapping[str, float]], use_gpu: bool | str) -> Resources:
    """Resources on a cluster: as many CPUs for each worker as let all workers run at once.

    Args:
        nodes: the resources of every living node, such as ``{"CPU": 8.0, "GPU": 1.0}``.
        use_gpu: ``scaling.use_gpu``; auto uses GPUs if every worker can have one, of a range the least number of workers.

    Raises:
        ResourceError: the workers cannot all run at once, so they would wait forever.
    """
    gpus, cpus = total(nodes, "GPU"), total(nodes, "CPU")
    least = wanted.threads or 1
    needed = wanted.workers if wanted.worker_range is None else wanted.worker_range[0]
    wants_gpu = gpus >= needed if use_gpu == "auto" else bool(use_gpu)
    if wanted.worker_range is not None:
        workers = min(wanted.worker_range[1], worker_slots(nodes, least, wants_gpu))
        wanted = replace(wanted, workers=max(needed, workers))
    if wants_gpu and gpus < wanted.workers:
        raise ResourceError(
            f"{wanted.workers} GPU workers were asked for, but the cluster has {counted(gpus, 'GPU')} in all. Ask for fewer "
            "with --workers, or set scaling.use_gpu=false."
        )
    largest = max((int(n.get("CPU", 0)) for n in nodes), default=0)
    for per_worker in range(max(least, min(largest, cpus // max(1, wanted.workers))), least - 1, -1):
        if worker_slots(nodes, per_worker, wants_gpu) >= wanted.workers:
            return replace(wanted, cpus=per_worker, threads=wanted.threads or per_worker, use_gpu=wants_gpu)
    raise ResourceError(
        f"{wanted.workers} workers of {counted(least, 'CPU')}{' and 1 GPU' if wants_gpu else ''} each were asked for, but the "
        f"cluster has {counted(len(nodes), 'node')} ({described(nodes)}), which do not hold them all. Ask for fewer with --workers."
    )


def total(nodes: Sequence[Mapping[str, float]], resource: str) -> int:
    """How much of a resource, ``CPU`` or ``GPU``, the nodes have together."""
    return sum(int(n.get(resource, 0)) for n in nodes)


def described(nodes: Sequence[Mapping[str, float]]) -> str:
    """The CPUs and GPUs of each node, for an error message. Of many nodes the first six."""
    each = [f"{counted(int(n.get('CPU', 0)), 'CPU')} and {counted(int(n.get('GPU', 0)), 'GPU')}" for n in nodes[:6]]
    return ", ".join([*each, "…"] if len(nodes) > len(each) else each) or "no nodes"


def bundles(wanted: Resources, use_gpu: bool | str) -> list[dict[str, float]]:
    """What to request from an autoscaler: the CPUs, and the GPU, of every worker.

    With ``use_gpu`` auto no GPU is requested: a run then uses GPUs that are there, and starts no machine for them.
    """
    each = {"CPU": float(wanted.cpus or wanted.threads or 1)} | ({"GPU": 1.0} if use_gpu is True else {})
    return [dict(each) for _ in range(wanted.workers)]


def worker_slots(nodes: Sequence[Mapping[str, float]], cpus: int, gpu: bool) -> int:
    """How many workers these nodes hold at once, each with ``cpus`` CPUs and, with ``gpu``, one GPU."""
    return sum(min(int(n.get("CPU", 0)) // cpus, int(n.get("GPU", 0)) if gpu else 10**9) for n in nodes)
