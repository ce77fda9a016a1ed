"""What the worker processes of a run do besides its tests: join it, and end with it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vae_compat.fixtures.supplies import Fixtures
from vae_compat.front.lifetime import end_with_parent
from vae_compat.front.options import Options
from vae_compat.front.subjects import HookUnderTest, facts_to_json, restored
from vae_compat.judge import Record
from vae_compat.reports.escaping import LIMIT, printable
from vae_compat.reports.log import Key
from vae_compat.reports.results import jsonable, restored_record
from vae_compat.session import Run

RECORD = "vae_compat_record"
CRASH = "vae_compat_crash"
_INPUT = "vae_compat"
_OPTIONS, _FACTS, _FINISHED = "options.json", "facts.json", "finished.json"


class Given(NamedTuple):
    """What a worker is told by the process of the command."""

    folder: Path
    controller: int
    """Process id."""
    key: bytes
    """With which the processes of the run seal what they share; never written down."""
    processes: int


def hand_on(
    folder: Path, options: Options, found: tuple[HookUnderTest, ...], finished: frozenset[Key]
) -> None:
    """Lay down what every worker needs, before the first one starts: all collect the same tests."""
    (folder / _OPTIONS).write_text(options.to_json(), encoding="utf-8")
    (folder / _FACTS).write_text(facts_to_json(found), encoding="utf-8")
    (folder / _FINISHED).write_text(json.dumps(sorted(finished)), encoding="utf-8")


def give(workerinput: dict[str, Any], folder: Path, key: bytes) -> None:
    """Tell a worker where that lies, and the key of the run."""
    workerinput[_INPUT] = json.dumps([str(folder), os.getpid(), key.hex()])


def given(config: pytest.Config) -> Given | None:
    """What this process was told; ``None`` where it is no worker of a run."""
    told = getattr(config, "workerinput", {}).get(_INPUT)
    if told is None:
        return None
    folder, controller, key = json.loads(told)
    processes = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    return Given(Path(folder), controller, bytes.fromhex(key), processes)


def join(given: Given) -> Run:
    """The run as the process of the command has prepared it."""
    folder = given.folder
    options = Options.from_json((folder / _OPTIONS).read_text(encoding="utf-8"))
    found = restored(options, (folder / _FACTS).read_text(encoding="utf-8"))
    finished = frozenset(map(tuple, json.loads((folder / _FINISHED).read_text(encoding="utf-8"))))
    run = prepared(options, found, folder, finished)
    run.key = given.key
    run.share_cores(processes=given.processes)
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


def settle(controller: int) -> None:
    """Have this process end with the one of the command, which alone decides on interrupts."""
    signal.signal(signal.SIGINT, _leave_it_to_the_command)
    end_with_parent(controller, signal.SIGKILL)


def _leave_it_to_the_command(*_: object) -> None:
    """A terminal interrupts every process of the run. No ``SIG_IGN``: children would inherit it."""


def told(record: Record) -> tuple[str, str]:
    """A record as a test's property, its message of bearable length.

    In ASCII, for a worker's channel takes no lone surrogates.
    """
    left = len(record.message) - LIMIT
    if left > 0:
        message = f"{record.message[:LIMIT]} ... ({left} more characters)"
        record = replace(record, message=message)
    return RECORD, json.dumps(jsonable(asdict(record)))


def record_in(properties: list[tuple[str, object]]) -> Record | None:
    """The record among the properties of a test, if it told one."""
    text = dict(properties).get(RECORD)
    return Record(**restored_record(json.loads(text))) if isinstance(text, str) else None


def crash_in(properties: list[tuple[str, object]]) -> str | None:
    """What was raised, among the properties of a test."""
    text = dict(properties).get(CRASH)
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
