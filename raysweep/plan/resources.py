"""How many workers, threads and GPUs a run gets, decided before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysweep import _machine
from raysweep.config.settings import ScalingSection
from raysweep.errors import ResourceError


@dataclass(frozen=True)
class ResourceOverrides:
    """Other resources than a training had before; what is None stays. With others the bits differ, and the log says so."""

    threads: int | None = None
    workers: int | list[int] | None = None  # a list: the least and the most
    address: str | None = None  # "local" leaves the cluster for this machine

    def applied(self, scaling: Mapping[str, Any]) -> dict[str, Any]:
        """The section ``scaling`` with what is asked for."""
        found = dict(scaling)
        if self.threads is not None:
            found["threads"] = self.threads
        if self.workers is not None:
            found["num_workers"] = self.workers
        if self.address is not None:
            found["address"] = None if self.address == "local" else self.address
        return found


AS_BEFORE = ResourceOverrides()


@dataclass(frozen=True)
class Resources:
    """``workers`` 0 means: in this process. ``cpus`` per worker; ``threads`` for torch in each.

    ``worker_range``: the least and the most workers, where another attempt may take another number of them.
    """

    workers: int
    cpus: int
    threads: int
    use_gpu: bool
    worker_range: tuple[int, int] | None = None


def gpus_here() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def decide(scaling: ScalingSection) -> Resources:
    """Resources on this machine; with an address the cluster is asked later, by :func:`fit_cluster`.

    Raises:
        ResourceError: more than there is.
    """
    gpus, cpus = gpus_here(), _machine.cpus_here()
    wants_gpu = gpus > 0 if scaling.use_gpu == "auto" else scaling.use_gpu
    worker_range = None
    if scaling.num_workers == "auto":
        workers = gpus if wants_gpu and gpus > 1 else (1 if scaling.address else 0)
    elif isinstance(scaling.num_workers, list):
        worker_range = least, most = (scaling.num_workers[0], scaling.num_workers[1])
        room = gpus if wants_gpu else cpus // (1 if scaling.threads == "auto" else scaling.threads)
        workers = most if scaling.address else max(least, min(most, room))
    else:
        workers = scaling.num_workers
    if scaling.address:
        return Resources(
            max(1, workers),
            0,
            0 if scaling.threads == "auto" else scaling.threads,
            bool(scaling.use_gpu is True),
            worker_range,
        )
    if wants_gpu and gpus == 0:
        raise ResourceError(
            "scaling.use_gpu is true, but torch sees no GPU on this machine. Set scaling.use_gpu=false."
        )
    if workers > cpus:
        raise ResourceError(
            f"{workers} workers were asked for, but this machine has {cpus} CPU{'s' * (cpus > 1)}. "
            f"Ask for at most {cpus}, or name a cluster with --address."
        )
    if wants_gpu and workers > gpus:
        raise ResourceError(
            f"{workers} GPU workers were asked for, but this machine has {gpus} GPUs. Two ranks cannot share one."
        )
    per_worker = max(1, cpus // max(1, workers))
    threads = per_worker if scaling.threads == "auto" else scaling.threads
    if threads > cpus:
        raise ResourceError(f"scaling.threads is {threads}, but this machine has {cpus} CPUs. Ask for at most {cpus}.")
    return Resources(workers, per_worker, threads, wants_gpu, worker_range)


def fit_cluster(wanted: Resources, nodes: Sequence[Mapping[str, float]], use_gpu: bool | str) -> Resources:
    """The CPUs each worker gets on a cluster: as many as let all workers fit at once.

    Args:
        nodes: the resources of every living node, such as ``{"CPU": 8.0, "GPU": 1.0}``.
        use_gpu: ``scaling.use_gpu``; auto takes GPUs where every worker can have one, or the fewest asked for can.

    Raises:
        ResourceError: they cannot all run at once, so the request would wait for ever.
    """
    gpus = sum(int(n.get("GPU", 0)) for n in nodes)
    cpus = sum(int(n.get("CPU", 0)) for n in nodes)
    least = wanted.threads or 1
    if wanted.worker_range is not None:  # as many as there is room for
        fewest, most = wanted.worker_range
        wants_gpu = gpus >= fewest if use_gpu == "auto" else bool(use_gpu)
        wanted = replace(wanted, workers=max(fewest, min(most, worker_slots(nodes, least, wants_gpu))))
    else:
        wants_gpu = gpus >= wanted.workers if use_gpu == "auto" else bool(use_gpu)
    if wants_gpu and gpus < wanted.workers:
        raise ResourceError(f"{wanted.workers} GPU workers were asked for, but the cluster has {gpus} GPUs in all.")
    top = max((int(n.get("CPU", 0)) for n in nodes), default=0)
    for per_worker in range(max(least, min(top, cpus // max(1, wanted.workers))), least - 1, -1):
        if worker_slots(nodes, per_worker, wants_gpu) >= wanted.workers:
            return replace(wanted, cpus=per_worker, threads=wanted.threads or per_worker, use_gpu=wants_gpu)
    shown = ", ".join(f"{int(n.get('CPU', 0))} CPUs and {int(n.get('GPU', 0))} GPUs" for n in nodes[:6]) or "no nodes"
    raise ResourceError(
        f"{wanted.workers} workers of {least} CPU{'s' * (least > 1)}{' and one GPU' if wants_gpu else ''} each were asked for, but the "
        f"cluster has {len(nodes)} node{'s' * (len(nodes) != 1)} ({shown}). Ask for fewer with --workers."
    )


def bundles(wanted: Resources, use_gpu: bool | str) -> list[dict[str, float]]:
    """What to ask an autoscaler for: the CPUs, and the GPU, of every worker. auto takes GPUs that are there, and starts none."""
    each = {"CPU": float(wanted.cpus or wanted.threads or 1)} | ({"GPU": 1.0} if use_gpu is True else {})
    return [dict(each) for _ in range(wanted.workers)]


def worker_slots(nodes: Sequence[Mapping[str, float]], cpus: int, gpu: bool) -> int:
    """How many workers of so many CPUs, and a GPU each where ``gpu``, these nodes hold at once."""
    return sum(min(int(n.get("CPU", 0)) // cpus, int(n.get("GPU", 0)) if gpu else 10**9) for n in nodes)
