"""What the worker processes of a run do besides its tests: join it, and end with it."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vae_compat.fixtures.supplies import Fixtures
from vae_compat.front.run.session import Run
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.subjects import HookUnderTest, facts_to_json, restored
from vae_compat.isolation.keeper import die_with
from vae_compat.judge import Record
from vae_compat.reports.log import Key
from vae_compat.reports.results import jsonable, restored_record
from vae_compat.text import LIMIT, printable

RECORD = "vae_compat_record"
CRASH = "vae_compat_crash"
UNPICTURED = "vae_compat_unpictured"
_INPUT = "vae_compat"


class Given(NamedTuple):
    """What the process of the command passes to a worker.

    It is sent through the worker's channel only, because a hook could rewrite files in a folder.
    All workers of a run get the same, so that all collect the same tests.
    """

    folder: str
    """Folder of the run."""
    controller: int
    """Process id of the command."""
    key: str
    """In hexadecimal, with which the processes of the run seal what they share."""
    began: float
    """When the run did, before any hook was loaded, in seconds since the epoch."""
    options: str
    facts: str
    finished: list[list[str]]
    """Records that need not be made: hook, case id and check."""


def give(workerinput: dict[str, Any], given: Given) -> None:
    """Tell a new worker all that it needs."""
    workerinput[_INPUT] = json.dumps(given)


def given_to_all(
    folder: Path,
    run: Run,
    found: tuple[HookUnderTest, ...],
    finished: frozenset[Key],
) -> Given:
    """What is passed to every worker of a run."""
    return Given(
        folder=str(folder),
        controller=os.getpid(),
        key=run.key.hex(),
        began=run.began,
        options=run.options.to_json(),
        facts=facts_to_json(found),
        finished=[list(known) for known in sorted(finished)],
    )


def given(config: pytest.Config) -> Given | None:
    """What was passed to this process; ``None`` where it is not a worker of a run."""
    told = getattr(config, "workerinput", {}).get(_INPUT)
    return None if told is None else Given(*json.loads(told))


def join(given: Given) -> Run:
    """The run as the process of the command has prepared it."""
    options = Options.from_json(given.options)
    found = restored(options, given.facts)
    finished = frozenset((hook, case, check) for hook, case, check in given.finished)
    run = prepared(options, found, Path(given.folder), finished)
    run.key, run.began = bytes.fromhex(given.key), given.began
    run.share_cores(processes=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return run


def prepared(
    options: Options,
    found: tuple[HookUnderTest, ...],
    folder: Path,
    finished: frozenset[Key],
) -> Run:
    """The run of these hooks."""
    supplies = Fixtures(seed=options.seed, weights=options.weights, image=options.image)
    return Run.prepare(
        options,
        [(under.told, under.profile) for under in found],
        supplies,
        folder,
        modes={under.profile.hook.name: under.facts.offered_modes for under in found},
        finished=finished,
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what was imported and collected out of all garbage collections of a worker."""
    if given(session.config) is not None:
        gc.freeze()
        gc.enable()


def settle(controller: int) -> None:
    """Have this process end with the one of the command, which alone decides on interrupts."""
    signal.signal(signal.SIGINT, _leave_it_to_the_command)
    die_with(controller, signal.SIGKILL)


def _leave_it_to_the_command(*_: object) -> None:
    """A terminal interrupts every process of the run. Children would inherit a ``SIG_IGN``."""


def told(record: Record) -> tuple[str, str]:
    """A record as a test's property, its message shortened.

    It is ASCII, because a worker's channel takes no lone surrogates.
    """
    left = len(record.message) - LIMIT
    if left > 0:
        message = f"{record.message[:LIMIT]} ... ({left} more characters)"
        record = replace(record, message=message)
    return RECORD, json.dumps(jsonable(asdict(record)))


def record_in(properties: list[tuple[str, object]]) -> Record | None:
    """The record among the properties of a test, if it has one."""
    text = dict(properties).get(RECORD)
    return Record(**restored_record(json.loads(text))) if isinstance(text, str) else None


def unpictured(error: Exception) -> tuple[str, str]:
    """Why there is no picture, as a test's property."""
    told = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return UNPICTURED, json.dumps(printable(told, 200))


def said(properties: list[tuple[str, object]], name: str) -> str | None:
    """The words of one property of a test: `UNPICTURED` or `CRASH`."""
    text = dict(properties).get(name)
    return str(json.loads(text)) if isinstance(text, str) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make every text of a report printable: it travels to the command and is shown there."""
    report = yield
    if call.excinfo is not None:
        report.user_properties.append((CRASH, json.dumps(call.excinfo.exconly()[:LIMIT])))
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, printable(reason, lines=True))
    elif report.longrepr is not None:
        report.longrepr = printable(report.longrepr, lines=True)
    report.sections = [(name, printable(text, lines=True)) for name, text in report.sections]
    return report
