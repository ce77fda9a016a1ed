"""Tests of the harness share the machine's cores between their processes."""

import os

import torch


def pytest_configure() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    # Runs that the tests start get one thread a process: with another number a sum rounds otherwise
    # in its last digit, and one process and two could not be compared to the letter.
    os.environ["OMP_NUM_THREADS"] = "1"
