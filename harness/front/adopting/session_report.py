"""The report of a session of pytest that has decorated tests: ``--vae-compat-report DIR``.

The process of pytest only gathers what the judges found. A process of its own writes the report,
since this one imports nothing heavy, and since tests may have imported a hook into it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vae_compat.errors import UsageError

PROPERTY = "vae_compat"
"""The property of a test that holds its record, as JSON."""
GATES = "vae_compat_gates"
"""What workers of pytest-xdist tell of their gates when they end."""
_PROGRAM = (
    "import sys; sys.path[:] = {path!r};"
    " from vae_compat.front.adopting import session_report as m; m.main()"
)


class GateFacts(NamedTuple):
    """All that is known of a decorated test before any of its cases runs."""

    out: str
    """The folder of its report."""
    header: dict[str, Any]
    """Header of the report, in JSON's types."""
    tests: int
    """Checks of cases that it has."""
    selected: int
    """How many of them this session is to run."""


def folder_for(nodeid: str, reports: Path) -> Path:
    """Where the report of a decorated test goes: ``DIR/tests.test_tiled_vae.test_gate``."""
    return reports / re.sub(r"\.py::|::|/", ".", nodeid)


def told(out: Path, answer: dict[str, Any]) -> tuple[str, str]:
    """What a judge answered, as a property of the test."""
    found = {"report": str(out), "record": answer["record"], "harness": "broken" in answer}
    return PROPERTY, json.dumps(found)


class SessionReport:
    """A pytest plugin of the process that sees all tests end. It writes when the session ends."""

    def __init__(self, config: pytest.Config) -> None:
        self._command = shlex.join(["pytest", *map(str, config.invocation_params.args)])
        self._folder = config.invocation_params.dir
        self._gates: dict[str, GateFacts] = {}
        self._entries: dict[str, list[dict[str, Any]]] = {}
        self._lines: list[str] = []

    def know(self, gates: Iterable[Iterable[Any]]) -> None:
        """Take what is known of gates; workers of pytest-xdist all tell the same."""
        for fields in gates:
            gate = GateFacts(*fields)
            self._gates[gate.out] = gate

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker knows."""
        self.know(getattr(node, "workeroutput", {}).get(GATES, ()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record of a test."""
        text = dict(report.user_properties).get(PROPERTY)
        if report.when == "call" and isinstance(text, str):
            found = json.loads(text)
            self._entries.setdefault(found.pop("report"), []).append(found)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write; a session without its report does not end well."""
        stopped = session.exitstatus == pytest.ExitCode.INTERRUPTED
        first = bool(session.config.getoption("maxfail")) and not stopped
        ran = [gate for gate in self._gates.values() if gate.out in self._entries]
        asked = [self._asked(gate, stopped=stopped, first=first) for gate in ran]
        try:
            self._lines = _written(asked) if asked else []
        except UsageError as error:
            self._lines = [f"no report: {error}"]
            if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the reports are."""
        for line in self._lines:
            terminalreporter.write_line(f"vae-compat: {line}")

    def _asked(self, gate: GateFacts, *, stopped: bool, first: bool) -> dict[str, Any]:
        """What the process that writes is given.

        ``stopped``: the session was interrupted; ``first``: it was to end at a failure.
        """
        entries = self._entries[gate.out]
        part = "" if gate.selected == gate.tests else f", {gate.selected} of {gate.tests} tests"
        header = gate.header | {
            "command": self._command,
            "selection": gate.header["selection"] + part,
        }
        return {
            "out": str(self._folder / gate.out),
            "header": header,
            "selected": gate.selected,
            "entries": entries,
            "end": {
                "stopped": "the session of pytest was interrupted" if stopped else None,
                "by_failure": first and len(entries) < gate.selected,
            },
        }


def _written(asked: list[dict[str, Any]]) -> list[str]:
    """Have the reports written; the folder and verdict of each. Raises ``UsageError``."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise UsageError(f"the process that writes it ended with {done.returncode}: {last[0]}")
    return [str(line) for line in json.loads(done.stdout)]


def main() -> None:
    """The other side: write each report, and print the folders and verdicts."""
    try:
        json.dump([_write(asked) for asked in json.load(sys.stdin)], sys.stdout)
    except UsageError as error:
        sys.exit(str(error))


def _write(asked: dict[str, Any]) -> str:
    """Write a report; returns where it is and the verdict in words."""
    from vae_compat.judge import Record
    from vae_compat.reports.html.rendering import FILE_NAME
    from vae_compat.reports.log import End, Entry, Log, concluded, write_log
    from vae_compat.reports.rendering import write_all
    from vae_compat.reports.results import Header, now, restored_record, validated

    out = Path(asked["out"])
    header = validated(Header, asked["header"], out)
    entries = (
        Entry(validated(Record, restored_record(each["record"]), out), harness=each["harness"])
        for each in asked["entries"]
    )
    log = Log(
        header=header,
        selected=asked["selected"],
        entries={entry.key: entry for entry in entries},
        end=End(finished=now(), **asked["end"]),
    )
    write_log(log, out)
    results = concluded(log, out)
    write_all(results, out)
    verdict = "the gate holds" if results.verdict.holds else "the gate does not hold"
    reason = f" ({results.verdict.reason})" if results.verdict.reason else ""
    return f"{verdict}{reason}: {out / FILE_NAME}"
