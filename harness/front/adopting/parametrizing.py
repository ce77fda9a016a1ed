"""The checks as tests of an adopter's own repository: `parametrize_hook`, and its pytest plugin.

Installed, the plugin is loaded into every run of pytest. It imports next to nothing, and does
nothing but for tests that are decorated.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from vae_compat.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from vae_compat.front.adopting.judge_process import JudgeProcess
    from vae_compat.front.adopting.session_report import GateFacts, SessionReport
    from vae_compat.front.api import ReportedFinding
    from vae_compat.front.selection.options import Options

MARK = "vae_compat_hook"
ARGUMENT = "check"
"""Name of the argument that a decorated test takes."""
REPORT = "--vae-compat-report"
"""The option that has reports written, and where."""
_FOLDER, _KEY, _BEGAN = "vae_compat_folder", "vae_compat_key", "vae_compat_began"
"""What processes of pytest-xdist tell each other."""


def parametrize_hook(
    hook: str | Path | Callable[..., Any] | None = None,
    *,
    profile: str | Path | None = None,
    kind: str | None = None,
    layout: str | None = None,
    host: str | None = None,
    claims: Mapping[str, Any] | None = None,
    families: Sequence[str] = (),
    directions: Sequence[str] = (),
    modes: Sequence[str] = (),
    scales: Sequence[str] = (),
    tiers: Sequence[str] = (),
    full: bool = False,
    device: str = "sim",
    seed: int = 0,
    timeout: float | None = None,
    comfyui: Path | str | None = None,
    cache: Path | str | None = None,
) -> pytest.MarkDecorator:
    """Parametrize a test over every check of every case of a hook, one test each:

        from vae_compat import parametrize_hook

        @parametrize_hook("tiled_vae.py:VAEHook", host="comfyui", families=["sd", "qwen"])
        def test_tiled_vae(check):
            check()

    The arguments are those of `vae_compat.check_hook` that say what is judged, and its ``cache``,
    or a ``profile`` in place of ``hook``; paths are relative to the folder of the test's file.
    ``check()`` returns a `vae_compat.ReportedFinding` and raises `vae_compat.HookFailureError`
    where it breaks the gate.
    Known failures of a profile are strict xfails. Wrong use is an error of collection.
    ``pytest --vae-compat-report DIR`` writes the report of each decorated test.
    """
    told = {name: value for name, value in locals().items() if value is not None}
    mark: pytest.MarkDecorator = getattr(pytest.mark, MARK)
    return mark(asked=told)


def options_of(
    hook: str | Path | Callable[..., Any] | None = None,
    *,
    profile: str | Path | None = None,
    comfyui: str | Path | None = None,
    cache: str | Path | None = None,
    **told: Any,
) -> Options:
    """What `parametrize_hook` was given, as options. Raises ``UsageError``."""
    from vae_compat.front.api import asked

    if hook is not None and profile is not None:
        raise UsageError("hook and profile exclude each other: give one of them")
    if comfyui is not None:
        told["comfyui"] = Path(comfyui)
    if cache is not None:
        told["cache"] = Path(cache)
    return asked(hook if profile is None else str(profile), **told)


class Listed(NamedTuple):
    """One check of one case, as the judge describes it."""

    hook: str
    case: str
    check: str
    known: str | None
    """The reason of the known failure that it is."""

    @property
    def id(self) -> str:
        """``parity[sd-mock-ldm-decode-...]``."""
        from vae_compat.contracts.caseid import record_id  # not where nobody asks

        return record_id(self.check, self.case)


class Gate:
    """All tests of one decorated function."""

    def __init__(self, judge: JudgeProcess, options: Options) -> None:
        """Have them listed. Raises ``UsageError``, ``StoppedError``."""
        self._judge = judge
        self._options = options.to_json()
        self.out = options.out
        described = judge.ask(options=self._options)
        self.tests = [Listed(*told) for told in described["items"]]
        self.left_out: list[str] = described["left_out"]
        """A sentence for each family that the installed diffusers lacks."""
        self.header: dict[str, Any] | None = described.get("header")
        """Header of the report that is wanted."""
        self.selected: list[Listed] = []
        """Tests that the session is to run."""
        self._records: dict[tuple[str, str], dict[str, Any]] = {}

    def answer(self, test: Listed) -> dict[str, Any]:
        """What the judge says of a test: its record, and how the harness failed if it did.

        The case runs once for all of its checks. Raises ``StoppedError`` where the judge ends.
        """
        place = test.hook, test.case
        if place not in self._records:
            told = self._judge.ask(options=self._options, hook=test.hook, case=test.case)
            self._records[place] = told["records"]
        answer: dict[str, Any] = self._records[place][test.check]
        return answer

    def cause(self, test: Listed) -> Listed | None:
        """The first test of this session whose failure left an answered one nothing to judge."""
        chosen = {each.check for each in self.selected if each[:2] == test[:2]}
        told = dict(self._records[test.hook, test.case])
        cause, check = None, test.check
        while (blocker := told.pop(check, {}).get("record", {}).get("blocked_by")) in told:
            check = blocker
            cause = test._replace(check=check) if check in chosen else cause
        return cause


def finding_in(answer: dict[str, Any]) -> ReportedFinding:
    """The finding that a judge answered. Raises ``StoppedError`` where the harness failed."""
    from vae_compat.front.api import reported
    from vae_compat.reports.results import restored_record

    if "broken" in answer:
        raise StoppedError(f"the harness failed, not the hook: {answer['broken']}")
    return reported(restored_record(answer["record"]))


class Check:
    """What a decorated test is given. Called, it judges: once more does no harm."""

    def __init__(self, gate: Gate, test: Listed) -> None:
        self.gate = gate
        self.test = test
        self.called = False
        self.answer: dict[str, Any] | None = None
        """What the judge said."""

    def __repr__(self) -> str:
        return f"<check {self.test.id}>"

    def __call__(self) -> ReportedFinding:
        """The finding, where it passed.

        Raises `HookFailureError` where it did not. Skips the test where a known failure of the same
        case leaves nothing to judge, or a failure that another test of this session tells.
        """
        __tracebackhide__ = True
        from vae_compat.front.api import HookFailureError
        from vae_compat.text import printable
        from vae_compat.vocabulary import UNJUDGED

        self.called = True
        self.answer = self.gate.answer(self.test)
        finding = finding_in(self.answer)
        message = printable(finding.message, lines=True)
        if finding.status == "skipped":
            pytest.skip(f"{UNJUDGED}: {message}")
        if finding.status == "error" and (cause := self.gate.cause(self.test)) is not None:
            pytest.skip(f"not judged: {cause.id} fails, and says why")
        if finding.status not in ("passed", "xpassed"):  # the latter fails as a strict xfail
            raise HookFailureError(message)
        return finding


class Judges:
    """The judges that a process of pytest asks: processes of their own, one for a device."""

    def __init__(self, config: pytest.Config) -> None:
        told = getattr(config, "workerinput", {}).get(_KEY)
        base = getattr(config.option, "basetemp", None)
        self.start = config.invocation_params.dir
        self.shared = None if told is None or base is None else Path(base).parent / "vae-compat"
        """Where the workers of pytest-xdist share what is found."""
        self._key = secrets.token_bytes(32) if told is None else bytes.fromhex(told)
        self._began: float | None = getattr(config, "workerinput", {}).get(_BEGAN)
        self._processes: dict[str, JudgeProcess] = {}
        reports: str | None = config.getoption(REPORT)
        self.reports = None if reports is None else Path(reports)
        """Where reports are wanted."""
        self._gates: dict[str, Gate] = {}

    def gate(self, options: Options) -> Gate:
        """The tests for some options. Raises ``UsageError``, ``StoppedError``."""
        from vae_compat.front.adopting.judge_process import JudgeProcess

        told = options.to_json()
        if told not in self._gates:
            if self._began is None:
                import psutil  # not where nobody asks

                self._began = psutil.Process().create_time()
            judge = self._processes.setdefault(
                options.device,
                JudgeProcess(
                    options.device,
                    self.start,
                    self.shared,
                    self._key,
                    began=self._began,
                    pictured=self.reports is not None,
                ),
            )
            self._gates[told] = Gate(judge, options)
        return self._gates[told]

    @property
    def facts(self) -> list[GateFacts]:
        """What a report of this session needs to know of its gates."""
        from vae_compat.front.adopting.session_report import GateFacts

        return [
            GateFacts(str(gate.out), gate.header, len(gate.tests), len(gate.selected))
            for gate in self._gates.values()
            if gate.header is not None
        ]

    def close(self) -> None:
        """End them."""
        for process in self._processes.values():
            process.close()


_JUDGES = pytest.StashKey[Judges]()
_SHARED = pytest.StashKey[set[str]]()
_SESSION_KEY = pytest.StashKey[str]()
_SESSION_BEGAN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option: without it nothing is written."""
    parser.getgroup("vae-compat").addoption(
        REPORT,
        metavar="DIR",
        help="write the report of each test that parametrize_hook decorates into a folder of DIR",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark, for repositories that are strict about marks."""
    config.addinivalue_line("markers", f"{MARK}: made by vae_compat.parametrize_hook")
    wanted = config.getoption(REPORT) is not None and not config.getoption("collectonly")
    if wanted and not hasattr(config, "workerinput"):
        from vae_compat.front.adopting.session_report import SessionReport

        config.pluginmanager.register(SessionReport(config), REPORT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each check of each case of a decorated function."""
    mark = metafunc.definition.get_closest_marker(MARK)
    if mark is None:
        return
    name = metafunc.definition.name
    if ARGUMENT not in metafunc.fixturenames:
        raise pytest.Collector.CollectError(
            f"{name} is decorated with parametrize_hook and takes no argument '{ARGUMENT}': write"
            f" def {name}({ARGUMENT}): {ARGUMENT}()"
        )
    stash = metafunc.config.stash
    if _JUDGES not in stash:
        stash[_JUDGES] = Judges(metafunc.config)
    judges = stash[_JUDGES]
    folder = metafunc.definition.path.parent
    try:
        options = placed(options_of(**mark.kwargs["asked"]), folder, judges.start)
        if judges.reports is not None:
            from vae_compat.front.adopting.session_report import folder_for

            options = replace(options, out=folder_for(metafunc.definition.nodeid, judges.reports))
        gate = judges.gate(options)
    except (UsageError, StoppedError) as error:
        raise pytest.Collector.CollectError(f"{name}: {error}") from None
    grouped = getattr(metafunc.config.option, "loadgroup", False)
    metafunc.parametrize(ARGUMENT, list(_parameters(gate, grouped=grouped)))


def _parameters(gate: Gate, *, grouped: bool) -> Iterator[Any]:
    """The tests; ``grouped`` where pytest-xdist hands out groups (``--dist loadgroup``)."""
    from vae_compat.front.api import HookFailureError
    from vae_compat.text import printable

    for test in gate.tests:
        marks = [pytest.mark.xdist_group(test.case)] if grouped else []
        if test.known is not None:
            reason = printable(test.known)
            marks.append(pytest.mark.xfail(reason=reason, strict=True, raises=HookFailureError))
        yield pytest.param(Check(gate, test), id=test.id, marks=marks)
    for sentence in gate.left_out:
        family = sentence.partition(" ")[0]
        yield pytest.param(None, id=f"left_out[{family}]", marks=pytest.mark.skip(reason=sentence))


def placed(options: Options, folder: Path, start: Path) -> Options:
    """The options with paths that lead from ``start``, which in a test file lead from its folder.

    The command that repeats a case then works where pytest was started.
    """

    def led(path: str | Path) -> str:
        whole = os.path.normpath(folder / Path(path).expanduser())
        below = os.path.relpath(whole, start)
        return whole if below.startswith(os.pardir) else below

    def is_path(name: str, ending: str) -> bool:
        return name.endswith(ending) or os.sep in name or (folder / name).exists()

    hook, profile = options.hook, options.profile
    if hook is not None:
        target, colon, attribute = hook.rpartition(":")
        if colon and is_path(target, ".py"):
            hook = f"{led(target)}:{attribute}"
    return replace(
        options,
        hook=hook,
        profile=tuple(led(name) if is_path(name, ".toml") else name for name in profile),
        comfyui=None if options.comfyui is None else Path(led(options.comfyui)),
        cache=None if options.cache is None else Path(led(options.cache)),
    )


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Fail a test that ends without having judged anything."""
    check = pyfuncitem.funcargs.get(ARGUMENT)
    if not isinstance(check, Check):
        return (yield)
    check.called = False
    try:
        result = yield
    finally:
        if check.answer is not None and check.gate.header is not None:
            from vae_compat.front.adopting.session_report import told

            pyfuncitem.user_properties.append(told(check.gate.out, check.answer))
    if not check.called:
        pytest.fail(f"the test never called {ARGUMENT}(), so nothing was judged", pytrace=False)
    return result


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what each report is to hold."""
    for item in session.items:
        check = item.callspec.params.get(ARGUMENT) if hasattr(item, "callspec") else None
        if isinstance(check, Check):
            check.gate.selected.append(check.test)


# Processes of pytest-xdist


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give all workers one key, and a time before any of them has imported anything."""
    key = node.config.stash.setdefault(_SESSION_KEY, secrets.token_hex(32))
    node.workerinput[_KEY] = key
    node.workerinput[_BEGAN] = node.config.stash.setdefault(_SESSION_BEGAN, time.time())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Remember what a worker leaves."""
    folder = getattr(node, "workeroutput", {}).get(_FOLDER)
    if folder is not None:
        node.config.stash.setdefault(_SHARED, set()).add(folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the judges."""
    judges = session.config.stash.get(_JUDGES, None)
    if judges is None:
        return
    judges.close()
    report: SessionReport | None = session.config.pluginmanager.get_plugin(REPORT)
    if report is not None:
        report.know(judges.facts)
    elif judges.shared is not None and judges.reports is not None:
        from vae_compat.front.adopting.session_report import GATES

        output = session.config.workeroutput  # type: ignore[attr-defined]
        output[GATES] = [list(gate) for gate in judges.facts]
    if judges.shared is not None:
        session.config.workeroutput[_FOLDER] = str(judges.shared)  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the workers have shared."""
    for folder in config.stash.get(_SHARED, ()):
        shutil.rmtree(folder, ignore_errors=True)
