"""The pytest plugin: options, the parametrized observations, and the records of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from vae_compat.cases import Case
from vae_compat.checks.finding import Finding, Status, Tier
from vae_compat.checks.registry import BY_NAME, CHECKS
from vae_compat.errors import UsageError
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.judge import ExitCode, Outcome, Record, diagnose, gate, tell
from vae_compat.launch import load_subject
from vae_compat.measure.observation import Observed
from vae_compat.reports.compare import hold_against
from vae_compat.reports.results import (
    HookEntry,
    Results,
    command_line,
    describe_run,
    now,
    read,
    write,
)
from vae_compat.reports.summary import write_summary
from vae_compat.reports.table import to_text
from vae_compat.scheduling import BaselineScheduling
from vae_compat.session import Item, Run, RunOptions
from vae_compat.subject import describing
from vae_compat.subject.profile import Profile, profile_from_flags

RUN = pytest.StashKey[Run]()
ITEM = pytest.StashKey[Item]()
RECORD = "record"
_PYTEST_CODES = {ExitCode.HOLDS: 0, ExitCode.FAILS: 1, ExitCode.USAGE: 4, ExitCode.HARNESS: 3}
_NODE = re.compile(r"::test_\w+\[(?P<check>\w+)-(?P<hook>[^:\]]*):(?P<case>[^\]]+)\]")
"""A test of a tier's suite: ``::test_minimum[completes-diffusers:sd-mock-...]``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer what ``vae-compat run`` offers, as pytest options."""
    group = parser.getgroup("vae-compat")
    several: dict[str, Any] = {"action": "append", "default": []}
    group.addoption("--vae-profile", help="profile file or embedded name; repeatable", **several)
    group.addoption("--vae-hook", help="FILE_OR_MODULE:ATTRIBUTE of a hook without a profile")
    group.addoption("--vae-kind", default="forward")
    group.addoption("--vae-layout")
    group.addoption("--vae-host")
    group.addoption("--vae-comfyui", type=Path)
    group.addoption("--vae-families", default="")
    group.addoption("--vae-directions", default="")
    group.addoption("--vae-modes", default="")
    group.addoption("--vae-scales", default="")
    group.addoption("--vae-full", action="store_true", help="the whole matrix")
    group.addoption("--vae-device", help="sim, cuda or cpu")
    group.addoption("--vae-weights", help="FAMILY=PATH_OR_ID; repeatable", **several)
    group.addoption("--vae-image", type=Path)
    group.addoption("--vae-seed", type=int, default=0)
    group.addoption("--vae-case", help="exactly the case with this id")
    group.addoption("--vae-timeout", type=float, help="seconds a hook may take for a case")
    group.addoption("--vae-out", type=Path, default=Path("reports/out"))
    group.addoption("--vae-against", type=Path, help="results.json that must not get worse")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the run; wrong use ends here, before anything has run."""
    config.addinivalue_line("markers", "case: a check of one case of the matrix")
    options = RunOptions.from_mapping(
        {
            name.removeprefix("vae_"): value
            for name, value in vars(config.option).items()
            if name.startswith("vae_")
        }
        | {
            "expression": config.option.keyword or None,
            "tiers": [Path(folder).name for folder in config.args],
        }
    )
    if not options.asks_for_a_hook:
        return
    shared = _shared_folder(config)
    if shared:
        describing.hear(config.workerinput["vae_facts"])  # type: ignore[attr-defined]
    supplies = Fixtures(seed=options.seed, weights=options.weights, image=options.image)
    try:
        run = Run.prepare(options, _profiles(options), supplies, shared)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[RUN] = run
    if shared:
        run.share_cores(processes=int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    else:
        config.pluginmanager.register(Gathering(run), "vae-compat-gathering")


def _profiles(options: RunOptions) -> list[tuple[str, Profile]]:
    """The profiles of the hooks under test, with the names that the command line has for them."""
    if options.hook is None:
        return [(name, load_subject(name)) for name in options.profile]
    flags = (options.hook, options.kind, options.layout, options.host)
    return [(options.hook, profile_from_flags(*flags, comfyui=options.comfyui))]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BaselineScheduling | None:
    """Keep the tests of a baseline in one process."""
    run = config.stash.get(RUN, None)
    if run is None:
        return None

    def group_of(nodeid: str) -> str:
        found = _NODE.search(nodeid)
        return run.group(found["case"]) if found else nodeid

    return BaselineScheduling(config, log, group_of)


def _shared_folder(config: pytest.Config) -> Path | None:
    """The run's folder, where this process is one of its xdist workers."""
    told = getattr(config, "workerinput", {}).get("vae_shared")
    return None if told is None else Path(told)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell every xdist worker the folder that the controller made."""
    run = node.config.stash.get(RUN, None)
    if run is not None:
        node.workerinput["vae_shared"] = str(run.folder)
        node.workerinput["vae_facts"] = describing.told()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per check of the tier and case to which the check applies."""
    if "observation" not in metafunc.fixturenames:
        return
    run = metafunc.config.stash[RUN]
    tier = Tier(metafunc.definition.originalname.removeprefix("test_"))
    parameters = [
        pytest.param(check, item, id=f"{check.name}-{item.id}", marks=_marks(item))
        for check in CHECKS
        if check.tier is tier
        for item in run.items(check.name)
    ]
    metafunc.parametrize(("check", "observation"), parameters, indirect=["observation"])


def _marks(item: Item) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.case]
    if item.known is not None:
        marks.append(pytest.mark.xfail(reason=item.known.reason, strict=True))
    return marks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All checks of a case together, cases of a baseline together, the expensive ones first."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    chosen = []
    for item in items:
        given = item.callspec.params.get("observation") if hasattr(item, "callspec") else None
        if isinstance(given, Item):  # a check without cases gets a placeholder, which is dropped
            item.stash[ITEM] = given
            chosen.append(item)
    items[:] = sorted(chosen, key=lambda item: run.place(*_whose(item)))


def _whose(item: pytest.Item) -> tuple[str, Case]:
    return item.stash[ITEM].subject, item.stash[ITEM].case


@pytest.fixture
def observation(request: pytest.FixtureRequest) -> Observed:
    """What the hook's one run of this case produced."""
    return request.config.stash[RUN].observe(request.param)


@pytest.fixture
def report(request: pytest.FixtureRequest, observation: Observed) -> Callable[[Finding], None]:
    """Takes a check's finding into the record, and fails the test where it did not pass."""
    run = request.config.stash[RUN]
    item = request.node.stash[ITEM]

    def take(finding: Finding) -> None:
        record = run.record(item, observation, finding)
        request.node.user_properties.append((RECORD, asdict(record)))
        if record.status == Outcome.SKIPPED:
            pytest.skip(f"a known failure of this case leaves nothing to judge: {record.message}")
        if finding.status is not Status.PASSED:
            prefix = "" if finding.status is Status.FAILED else "ERROR: "
            pytest.fail(f"{prefix}{finding.message}", pytrace=False)

    return take


class Gathering:
    """Gathers the records in the process that started the run, and tells what became of it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._started = now()
        self._records: dict[str, Record] = {}
        self._expected: set[str] = set()
        self._harness_failure: str | None = None
        self._text = ""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is to run, where this process runs it."""
        self._expected.update(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note what is to run, where others run it."""
        self._expected.update(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record of a test, or make one where its process died."""
        told = dict(report.user_properties).get(RECORD)
        if report.when == "call" and isinstance(told, dict):
            self._records[report.nodeid] = Record(**told)
        elif report.failed and (found := _NODE.search(report.nodeid)):
            died = report.when not in ("setup", "call", "teardown")
            message = "the process that ran this case died" if died else str(report.longrepr)
            if not died:
                self._harness_failure = self._harness_failure or message
            self._records[report.nodeid] = self._error(found, message)

    def _error(self, found: re.Match[str], message: str) -> Record:
        """The record of a test that told nothing itself."""
        return Record(
            case=found["case"],
            check=found["check"],
            tier=str(BY_NAME[found["check"]].tier),
            status=str(Outcome.ERROR),
            message=message,
            hook=found["hook"],
            repeat=self._run.subjects[found["hook"]].repeat_id(found["case"]),
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Judge the run, write its reports and set the exit code."""
        self._run.close()
        if exitstatus not in (0, 1, pytest.ExitCode.NO_TESTS_COLLECTED):
            return  # interrupted or wrong use: there is no run to judge
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise pytest.UsageError("no check of any case was selected: widen the selection")
        for nodeid in self._expected - self._records.keys():
            if found := _NODE.search(nodeid):
                message = "the run ended before this case was reached"
                self._records[nodeid] = self._error(found, message)
        records = sorted(self._records.values(), key=lambda r: (r.hook, r.case, r.check))
        if not records:
            self._harness_failure = self._harness_failure or "no test told what became of it"
        options = self._run.options
        header = describe_run(
            hooks=[
                HookEntry(
                    name=name,
                    entry=subject.profile.hook.entry,
                    kind=str(subject.profile.hook.kind),
                    layout=str(subject.profile.hook.layout),
                    profile=subject.flags[1] if options.hook is None else None,
                )
                for name, subject in self._run.subjects.items()
            ],
            device=options.device,
            seed=options.seed,
            selection=options.described_selection,
            started=self._started,
            command=command_line(),
        )
        results = Results(
            header=header,
            records=tuple(records),
            verdict=gate(records, harness_failure=self._harness_failure),
            diagnosis=tell(diagnose(records)),
        )
        if options.against is not None:
            results = hold_against(results, read(options.against))
        write(results, options.out)
        write_summary(results, options.out)
        terminal = session.config.get_terminal_writer()
        self._text = to_text(results, width=terminal.fullwidth, colour=terminal.hasmarkup)
        session.exitstatus = _PYTEST_CODES[results.verdict.code]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        terminalreporter.ensure_newline()
        terminalreporter.write(self._text)
