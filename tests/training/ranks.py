"""Processes that train together through gloo, like the workers of Ray's trainer. They start once for many trainings."""

from __future__ import annotations

import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from raysweep.errors import Interrupted
from raysweep.training.job import Job, Outcome
from tests import forks


def _rank(rank: int, size: int, pipe: Connection) -> None:
    import torch.distributed as dist

    from raysweep.training.loop import train
    from tests.conftest import Recorder

    while (work := pipe.recv()) is not None:
        job, meeting, stop_after = work
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
        try:
            pipe.send(train(job, Recorder(stop_after if rank == 0 else None)))
        except Interrupted as error:
            pipe.send(str(error))
        except BaseException as error:
            pipe.send(error)
            raise
        finally:
            dist.destroy_process_group()


class Ranks:
    """``size`` processes, each with its pipe; use as a context."""

    def __init__(self, size: int) -> None:
        context = forks.server()
        self.pipes, self.processes = [], []
        for rank in range(size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(rank, size, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
            process.kill()

    def train(self, job: Job, stop_after: int | None = None) -> Outcome:
        """Train on all ranks; rank 0 requests a stop after ``stop_after`` batches.

        Raises:
            Interrupted: they stopped. Whatever else a rank raised.
        """
        with tempfile.TemporaryDirectory() as folder:
            for pipe in self.pipes:
                pipe.send((job, str(Path(folder) / "meeting"), stop_after))
            answers: list[Any] = []
            for pipe in self.pipes:
                assert pipe.poll(120), "a rank does not answer"
                answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if isinstance(answers[0], str):
            raise Interrupted(answers[0])
        return answers[0]
