"""Benchmarks run alone, one torch thread, so that their figures compare between machines."""

import os

import torch


def pytest_configure() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
