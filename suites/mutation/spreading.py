"""Runs jobs in child processes, because hooks may hang or crash them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

LIVES = 6
"""How often a job is started again whose process died: a bench gives a hook up after three."""


def spread(
    work: Callable[[Job], Result], jobs: Sequence[Job], folder: Path, processes: int
) -> list[Result]:
    """Results of all jobs, in their order. Raises ``RuntimeError`` for a job that cannot be done.

    Children are forked, so that everything imported and prepared here is there already. A job whose
    process died is started again: a bench remembers on which case it was.
    """
    fork = multiprocessing.get_context("fork")
    waiting = [(number, 1) for number in reversed(range(len(jobs)))]
    running: dict[int, tuple[BaseProcess, int, int]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            number, life = waiting.pop()
            arguments = (work, jobs[number], _told(folder, number))
            process = fork.Process(target=_do, args=arguments)
            process.start()
            running[process.sentinel] = (process, number, life)
        for sentinel in wait(list(running)):
            process, number, life = running.pop(sentinel)  # type: ignore[call-overload]
            process.join()
            if _told(folder, number).exists():
                continue
            if life == LIVES or process.exitcode == 1:
                raise RuntimeError(f"{jobs[number]} ended with {process.exitcode}")
            waiting.append((number, life + 1))
    return [pickle.loads(_told(folder, number).read_bytes()) for number in range(len(jobs))]


def _do(work: Callable[[Job], Result], job: Job, told: Path) -> None:
    gc.freeze()  # what was there before is not looked through at every collection
    draft = told.with_suffix(".draft")
    draft.write_bytes(pickle.dumps(work(job)))
    draft.replace(told)
    os._exit(0)  # exit handlers that hooks have left must not run


def _told(folder: Path, number: int) -> Path:
    return folder / f"{number}.pickle"
