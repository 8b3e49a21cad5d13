"""What the end of an attempt on Ray workers means, and whether another one is worth it. Decisions only: no effects.

A process that died, a rank that hangs, a controller that was killed or a node that goes away says nothing about the
training itself: it goes on from the newest checkpoint that verifies, ``scaling.max_failures`` times. An error of the
program would come again, so it is raised at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysweep.errors import Interrupted, RaysweepError, TrainingError
from raysweep.events import RankDone, RankFailed

PREEMPTED = "a preemption notice"  # the reason to stop where Ray says that a node will be taken away


@dataclass(frozen=True)
class Verdict:
    """``epochs`` is set where the training is complete, else ``error`` says what to raise if nothing is tried again."""

    error: RaysweepError | None = None
    ended: RankDone | None = None
    retry: bool = False
    counts: bool = True  # whether another attempt uses up one of scaling.max_failures
    reason: str = ""


def judge(
    said: Sequence[RankDone | RankFailed],
    failure: BaseException | None,
    timeout_s: float,
    logs: str,
    leaving: bool = False,
) -> Verdict:
    """What an attempt's end means.

    Args:
        said: how the ranks ended; a rank that died has sent nothing.
        failure: what Ray's trainer raised.
        timeout_s: ``scaling.timeout_s``, for the message.
        logs: where Ray's own log files are.
        leaving: whether a node of this training is being taken away: then a lost process is no failure of its own. Ray's
            controller may die of a notice before a rank has seen it.
    """
    own = [e.error for e in said if isinstance(e, RankFailed) and e.fatal]
    # What a rank says of itself explains what the others say of it.
    own += [e.error for e in said if isinstance(e, RankFailed) and not e.fatal and not e.lost_peer]
    if own:
        preempted = isinstance(own[0], Interrupted) and own[0].reason == PREEMPTED
        return Verdict(error=own[0], retry=preempted, counts=not preempted, reason=PREEMPTED if preempted else "")
    for event in said:
        if isinstance(event, RankDone):
            return Verdict(ended=event)  # the last epoch is committed; how the workers went down no longer matters
    reason = _why([e for e in said if isinstance(e, RankFailed)], failure, timeout_s)
    remedy = f"Ray's own log files are under {logs}."
    if "memory" in reason:
        remedy = (
            f"If it was memory: a smaller training.batch_size, or fewer branches at once (--max-concurrent). {remedy}"
        )
    error = TrainingError(f"Training on workers failed: {reason}. {remedy}")
    return Verdict(error=error, retry=True, counts=not leaving, reason=PREEMPTED if leaving else reason)


def _why(said: Sequence[RankFailed], failure: BaseException | None, timeout_s: float) -> str:
    parts: list[tuple[str, BaseException | str]] = []
    ranks = getattr(failure, "worker_failures", None) or {}
    for rank, error in sorted(ranks.items()):
        parts.append((f"worker {rank}", error))
    if not parts and failure is not None:
        parts.append(("Ray's train controller", failure))
    told = [name + found for name, error in parts if (found := _of_process(error))]
    if told:
        return " and ".join(dict.fromkeys(told))
    for event in said:
        text = str(event.error)
        if "timed out" in text.lower() or "timeout" in text.lower():  # gloo and NCCL say it in words only
            return f"a rank did not answer worker {event.rank} within {timeout_s:g} s (scaling.timeout_s)"
        return f"worker {event.rank} lost the others ({text.splitlines()[0][:200]})"
    if failure is None:
        return "the workers ended without a word"
    lines = [line for line in str(failure).splitlines() if line.strip()]
    return (lines[-1].strip() if lines else type(failure).__name__)[:300]


def _of_process(error: BaseException | str) -> str | None:
    """How a process ended, by what Ray tells of it; None where Ray only repeats what the process itself has said."""
    kind, text = type(error).__name__, str(error)
    if "OutOfMemory" in kind or "low on memory" in text:
        return " was killed because its machine ran out of memory"
    if "HealthCheckTimeout" in kind or "HealthCheckTimeout" in text:
        return " did not answer Ray (it hangs, or is stopped)"
    if "NodeDied" in kind or "node has died" in text or "node was terminated" in text or "drained" in text:
        return "'s node went away"
    if "Preempt" in kind:
        return "'s node was taken away"
    if "ActorDied" in kind or "ActorUnavailable" in kind or "died" in text or "WorkerCrashed" in kind:
        # Ray's text lists an out-of-memory kill among all that may have been, so it says nothing.
        return " died (it was killed; the system does that also where memory runs out)"
    return None


def is_memory(error: BaseException) -> bool:
    """Whether an error that a process raised itself means that memory ran out, on the host or on a GPU."""
    words = ("out of memory", "low on memory", "can't allocate memory", "Unable to allocate")  # CUDA, Ray, torch, NumPy
    return (
        isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or any(w in str(error) for w in words)
    )
