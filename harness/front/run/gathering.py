"""Collects records while tests run, in the process of the command."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from rich.text import Text

from vae_compat.front.run import workers
from vae_compat.front.run.interrupts import Interrupts
from vae_compat.front.run.plugin import RUN, told_by
from vae_compat.front.run.progress import Progress
from vae_compat.front.run.scheduling import BaselineScheduling
from vae_compat.front.run.session import Run
from vae_compat.isolation.client import close_shared_nursery
from vae_compat.judge import Record
from vae_compat.reports import digest
from vae_compat.reports.log import Entry, Key, Log, LogError, Writer
from vae_compat.reports.results import Header
from vae_compat.text import printable
from vae_compat.vocabulary import BAD


class Gathering:
    """A pytest plugin that writes every record down when its test reports.

    Afterwards it knows the records found, how many were expected, and why any are missing.
    """

    def __init__(
        self,
        run: Run,
        given: workers.Given,
        header: Header,
        interrupts: Interrupts,
        resumed: Log | None = None,
    ) -> None:
        self.header = header
        self.selected = 0
        """Records that the whole run is to have, earlier ones included."""
        self.entries: dict[Key, Entry] = {} if resumed is None else dict(resumed.entries)
        self.stopped: str | None = None
        """Why not everything runs."""
        self.refused: str | None = None
        """Why nothing runs: wrong use that is only noticed late."""
        self.unpictured: Counter[str] = Counter()
        """Why pictures are missing, and how many."""
        self.writer: Writer | None = None
        self._run = run
        self._given = given
        self._interrupts = interrupts
        self._resumed = resumed
        self._nodes: set[Any] = set()
        self._terminal: Any = None
        self._progress: Progress | None = None

    @property
    def interrupted(self) -> str | None:
        """What ended the run, where that was a signal."""
        return self._interrupts.reason

    # What is to run

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the run available to the tests of this process."""
        config.stash[RUN] = self._run

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Find the terminal, to print failures as they occur."""
        self._terminal = session.config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config) -> None:
        """Keep back what xdist says of its workers' state: lines of progress tell what matters."""
        told = config.pluginmanager.get_plugin("terminaldistreporter")
        if told is not None and not self._verbose:
            told.ensure_show_status = told.rewrite = lambda *_, **__: None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> BaselineScheduling:
        """Keep the tests of a baseline in one process."""

        def group_of(nodeid: str) -> str:
            found = told_by(nodeid)
            return self._run.group(found.case) if found else nodeid

        return BaselineScheduling(config, log, group_of)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a new worker what it works on; from now on hooks are in the workers' processes."""
        close_shared_nursery()
        workers.give(node.workerinput, self._given)
        self._nodes.add(node)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Forget a worker that has ended."""
        self._nodes.discard(node)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start, where this process runs the tests itself."""
        if session.items:
            self._begin([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Start, where worker processes run them."""
        if ids and self.writer is None:
            self._begin(ids)

    def _begin(self, ids: list[str]) -> None:
        keys = {(found.hook, found.case, found.check) for found in map(told_by, ids) if found}
        self.selected = len(keys | self.entries.keys())
        bad = sum(entry.record.status in BAD for entry in self.entries.values())
        self._progress = Progress(
            self.selected, len(self.entries), bad, terminal=sys.stdout.isatty()
        )
        with self._interrupts.held():
            try:
                options = self._run.options
                self.writer = Writer(options.out, self.header, self.selected, self._resumed)
            except LogError as error:
                self.refused = str(error)
                pytest.exit(str(error))

    # What comes of it

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down the record of a test, or that the harness failed in it."""
        called, properties = report.when == "call", report.user_properties
        record = workers.record_in(properties) if called else None
        if called and (why := workers.said(properties, workers.UNPICTURED)):
            self.unpictured[why] += 1
        found = told_by(report.nodeid)
        if record is not None:
            self._take(Entry(record))
        elif report.failed and found is not None:
            died = report.when not in ("setup", "call", "teardown")
            if died and (found.hook, found.case, found.check) in self.entries:
                return  # it had reported every record already
            message = workers.said(properties, workers.CRASH) or str(report.longrepr)
            if died:
                message = "the worker process that ran this case died"
            self._take(Entry(self._run.unjudged(*found, message), harness=True))
        self._interrupts.check()

    def _take(self, entry: Entry) -> None:
        with self._interrupts.held():
            self.entries[entry.key] = entry
            try:
                assert self.writer is not None
                self.writer.append(entry)
            except LogError as error:
                self.stopped = str(error)
                pytest.exit(str(error))
        bad = entry.record.status in BAD
        if bad and not entry.record.blocked_by:
            self._show(entry.record)
        line = None if self._progress is None else self._progress.took(bad=bad)
        if line is not None and self._terminal is not None and not self._verbose:
            self._renew(line)

    def _renew(self, line: str) -> None:
        """Show how far the run has come; on a terminal in place of the line before."""
        writer = self._terminal._tw
        if self._progress is not None and self._progress.terminal:
            writer.write(f"\r\x1b[K{line}", flush=True)
        else:
            self._terminal.write_line(line)

    def _wipe(self) -> None:
        """Take the line off a terminal that told how far the run has come."""
        renewed = self._progress is not None and self._progress.terminal
        if renewed and self._terminal is not None and not self._verbose:
            self._terminal._tw.write("\r\x1b[K", flush=True)

    @property
    def _verbose(self) -> bool:
        return self._run.options.verbose

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Leave out the dots: a line that tells how far the run has come takes their place."""
        told = yield
        return told if self._verbose or told is None else (told[0], "", "")

    def _show(self, record: Record) -> None:
        """Print a failure as it occurs, on one line."""
        if self._terminal is None:
            return
        mark = digest.MARKS.get(record.status, record.status.upper())
        several = len(self._run.subjects) > 1
        hook = f"[{printable(record.hook, 80)}] " if several else ""
        line = Text(f"{mark} {hook}{record.id}: {printable(digest.statement(record), 500)}")
        if sys.stdout.isatty():  # a log is searched for ids, and nobody sees it in columns
            width = shutil.get_terminal_size((self._terminal._tw.fullwidth, 24)).columns
            line.truncate(max(width - 1, 20), overflow="ellipsis")
        self._wipe()
        self._terminal.ensure_newline()
        self._terminal.write_line(line.plain)

    # The end

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Do not wait for workers where the run was told to stop."""
        self._wipe()
        self._interrupts.close()
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            return
        for node in self._nodes:
            with suppress(Exception):  # a worker that has ended, or never started
                os.kill(node.gateway._rinfo().pid, signal.SIGKILL)
