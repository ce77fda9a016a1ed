"""Benchmarks run alone, one torch thread, so that their figures compare between machines."""

import os
from pathlib import Path

import pytest
import torch

from vae_compat.suites.bench.asking import QUICK
from vae_compat.suites.bench.tables import TABLES, Tables

OUT = Path("reports/out/reference.md")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--published", metavar="FILE:ATTRIBUTE", help="a hook to run beside")
    group.addoption("--counts-alone", action="store_true", help="compute nothing: quick")
    group.addoption("--selection", default=QUICK, help="of test_overhead, as for vae-compat run")
    group.addoption("--rounds", type=int, default=3, help="runs of which the time is the median")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    config.stash[TABLES] = Tables()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config):
    """Print the tables of the run, and keep them."""
    text = config.stash[TABLES].markdown()
    if text:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(text)
        terminalreporter.write_line("")
        terminalreporter.write_line(text)
