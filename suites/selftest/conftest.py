"""Tests of the harness share the machine's cores between their processes."""

import os
from collections.abc import Iterator

import pytest
import torch

from vae_compat.isolation.client import Nursery, shared_nursery


def pytest_configure() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    # Runs that the tests start get one thread a process: with another number a sum rounds otherwise
    # in its last digit, and one process and two could not be compared to the letter.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What runners come from, those of runs in this process as well: it imports for seconds.

    A test that kills it gets another.
    """
    made = shared_nursery()
    yield made
    made.close()
