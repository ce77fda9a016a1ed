"""Tests of the harness share the machine's cores between their processes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vae_compat.isolation.client import Nursery


gc.disable()  # up to the end of the collection: what is imported and collected stays


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        return  # the workers run the tests
    import torch  # seconds to import, and so is what follows

    from vae_compat.importing import imported

    imported("diffusers")

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
    from vae_compat.isolation.client import shared_nursery  # imports torch

    made = shared_nursery()
    yield made
    made.close()
