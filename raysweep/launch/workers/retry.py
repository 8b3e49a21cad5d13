"""What the end of an attempt on Ray workers means, and whether to try again. This module only decides; it has no effects.

A process that died, a rank that hangs, a controller that was killed or a node that went away is no fault of the training: it
continues from the newest checkpoint that verifies, at most ``scaling.max_failures`` times. An error of the program would happen
again, so it is raised at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from raysweep.errors import Interrupted, RaysweepError, TrainingError
from raysweep.events import RankDone, RankFailed

PREEMPTED = "a preemption notice"  # the reason to stop if Ray says that a node will be taken away


@dataclass(frozen=True)
class Verdict:
    """``ended`` is set if the training is complete; else ``error`` is what to raise if there is no other attempt."""

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
        said: how the ranks ended; a rank that died sent nothing.
        failure: what Ray's trainer raised.
        timeout_s: ``scaling.timeout_s``, for the message.
        logs: where Ray's own log files are.
        leaving: whether a node of this training is being taken away: then a lost process is no failure of its own. Ray's
            controller may end because of a notice before a rank has seen it.
    """
    own = _own_error(said)
    if own is not None:
        preempted = isinstance(own, Interrupted) and own.reason == PREEMPTED
        return Verdict(error=own, retry=preempted, counts=not preempted, reason=PREEMPTED if preempted else "")
    for event in said:
        if isinstance(event, RankDone):
            return Verdict(ended=event)  # the last epoch is committed; how the workers went down no longer matters
    loss = _lost_process(failure) or _lost_peer(said, timeout_s)
    if loss is None and (mistake := _mistake(failure)) is not None:
        return Verdict(error=TrainingError(f"Training on workers failed: {type(mistake).__name__}: {mistake}."))
    loss = loss or _unexplained(failure)
    remedy = f"Ray's own log files are under {logs}."
    if loss.memory:
        remedy = (
            f"If it was memory: a smaller training.batch_size, or fewer branches at once (--max-concurrent). {remedy}"
        )
    error = TrainingError(f"Training on workers failed: {loss.text}. {remedy}")
    return Verdict(error=error, retry=True, counts=not leaving, reason=PREEMPTED if leaving else loss.text)


def _own_error(said: Sequence[RankDone | RankFailed]) -> RaysweepError | None:
    """The error of the program that ended the training: what a rank says of itself explains what others say of it."""
    failed = [e for e in said if isinstance(e, RankFailed)]
    own = [e for e in failed if e.fatal] + [e for e in failed if not e.fatal and not e.lost_peer]
    return own[0].error if own else None


@dataclass(frozen=True)
class _Loss:
    """Why processes were lost, for a message; ``memory``: memory may have run out."""

    text: str
    memory: bool = False


def _lost_process(failure: BaseException | None) -> _Loss | None:
    """What Ray says of the processes that it lost; None if it only repeats what the ranks said."""
    if failure is None:
        return None
    ranks = getattr(failure, "worker_failures", None) or {}
    processes = {f"worker {rank}": error for rank, error in sorted(ranks.items())} or {
        "Ray's train controller": failure
    }
    ends = [(name, end) for name, error in processes.items() if (end := _end_of_process(error)) is not None]
    if not ends:
        return None
    text = " and ".join(dict.fromkeys(name + end.value for name, end in ends))
    return _Loss(text, memory=any(end in (_End.MEMORY, _End.DIED) for _, end in ends))


def _lost_peer(said: Sequence[RankDone | RankFailed], timeout_s: float) -> _Loss | None:
    """What the first rank says of the others that it could not reach."""
    for event in said:
        if isinstance(event, RankFailed):
            text = str(event.error)
            if "timed out" in text.lower() or "timeout" in text.lower():  # gloo and NCCL say it in words only
                return _Loss(f"a rank did not answer worker {event.rank} within {timeout_s:g} s (scaling.timeout_s)")
            return _worded(f"worker {event.rank} lost the others ({text.splitlines()[0][:200]})")
    return None


# What Python raises where a program, a name or a value is wrong. It would happen again.
_MISTAKES = (ArithmeticError, AttributeError, ImportError, LookupError, NameError, SyntaxError, TypeError, ValueError)


def _mistake(failure: BaseException | None) -> BaseException | None:
    """The mistake of a program, or of a value given to it, that an error of Ray's trainer is or wraps; None if there is none."""
    seen: list[BaseException] = []
    while isinstance(failure, BaseException) and failure not in seen:
        if isinstance(failure, _MISTAKES):
            return failure
        seen.append(failure)
        failure = getattr(failure, "controller_failure", None) or getattr(failure, "cause", None) or failure.__cause__
    return None


def _unexplained(failure: BaseException | None) -> _Loss:
    if failure is None:
        return _Loss("the workers ended without a message")
    lines = [line for line in str(failure).splitlines() if line.strip()]
    return _worded((lines[-1].strip() if lines else type(failure).__name__)[:300])


def _worded(text: str) -> _Loss:
    """A loss of which another program's text is all there is."""
    return _Loss(text, memory="memory" in text)


class _End(Enum):
    """How Ray lost a process; the value follows the process's name in a message."""

    MEMORY = " was killed because its machine ran out of memory"
    SILENT = " did not answer Ray (it hangs, or is stopped)"
    NODE = "'s node went away"
    PREEMPTED = "'s node was taken away"
    DIED = " died (it was killed; the system does that also where memory runs out)"


# In this order: (how it ended, parts of the name of Ray's error, parts of its text). Ray wraps the errors of workers, and some
# arrive as text only. Ray's text about a died actor lists an out-of-memory kill among all that may have been, so it says nothing.
_ENDS = (
    (_End.MEMORY, ("OutOfMemory",), ("low on memory",)),
    (_End.SILENT, ("HealthCheckTimeout",), ("HealthCheckTimeout",)),
    (_End.NODE, ("NodeDied",), ("node has died", "node was terminated", "drained")),
    (_End.PREEMPTED, ("Preempt",), ()),
    (_End.DIED, ("ActorDied", "ActorUnavailable", "WorkerCrashed"), ("died",)),
)


def _end_of_process(error: BaseException | str) -> _End | None:
    """How a process ended, by the name and text of Ray's error; None if Ray only repeats what the process itself said."""
    kind, text = type(error).__name__, str(error)
    for end, kinds, words in _ENDS:
        if any(k in kind for k in kinds) or any(w in text for w in words):
            return end
    return None


def of_trial(error: BaseException) -> str:
    """Why Ray Tune gave up a branch whose process could not report it itself."""
    if is_memory(error):
        return "its process was killed because memory ran out; run fewer branches at once with --max-concurrent"
    if "ActorDied" in type(error).__name__ or "died" in str(error):
        return "its process died (it was killed, or memory ran out); go on with `raysweep continue`"
    return _unexplained(error).text


def is_memory(error: BaseException) -> bool:
    """Whether an error that a process raised itself means that memory ran out, on the host or on a GPU."""
    words = ("out of memory", "low on memory", "can't allocate memory", "Unable to allocate")  # CUDA, Ray, torch, NumPy
    return (
        isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or any(w in str(error) for w in words)
    )
