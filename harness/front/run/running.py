"""``vae-compat run``: from options to an exit code."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.errors import StoppedError, UsageError
from vae_compat.front.ending import complain
from vae_compat.front.kept_runs import keeping, reporting
from vae_compat.front.run.interrupts import Interrupts
from vae_compat.front.run.run_folder import RunFolder
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.validation import validate
from vae_compat.isolation.processes import children_resumed
from vae_compat.vocabulary import BAD, Device

if TYPE_CHECKING:
    from vae_compat.front.run.gathering import Gathering
    from vae_compat.front.run.session import Run
    from vae_compat.front.selection.subjects import HookUnderTest
    from vae_compat.reports.log import Log
    from vae_compat.reports.results import Header, Results

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(128 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""Makes glibc keep some freed memory. Otherwise the system maps every activation anew, page by
page, which takes a quarter of the CPU time of a run. glibc reads this at the start of a process, so
it acts in the workers."""
LOST_WORKERS = 32
"""Workers that may die before a run gives up. No hook runs in them, so none should."""


def run(options: Options) -> int:
    """Run the suites and return the exit code of the gate.

    Raises ``UsageError`` for whatever is wrong with the options, before anything has run.
    """
    began = time.time()  # before any process of the run is started
    set_environment(options.device)
    if options.resume is not None:
        options = replace(options, out=options.resume)
    with Interrupts() as interrupts:
        try:
            with RunFolder() as folder:  # inspecting a hook starts a process
                found = validate(options)
                night: keeping.Place | None = None
                if options.history is not None:
                    options, night = keeping.placed(options, header_of(options, found))
                results = judged(options, found, interrupts, folder.path, began)
        except KeyboardInterrupt:
            raise StoppedError(
                f"{interrupts.reason or 'interrupted'} before any case ran"
            ) from None
        code = reporting.tell(results, options)
        return code if night is None else keeping.kept(night, results, code)


def set_environment(device: str) -> None:
    """Set what the processes of a run inherit."""
    os.environ.update(environment_of(device))
    os.environ.pop("PYTEST_ADDOPTS", None)  # an adopter's, for tests of their own


def environment_of(device: str) -> dict[str, str]:
    """What a process that judges needs in its environment, beside what is there already."""
    found = {name: value for name, value in ALLOCATOR.items() if name not in os.environ}
    if device != Device.CUDA:  # the simulated accelerator must not hide a real one: there is none
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


def judged(
    options: Options,
    found: tuple[HookUnderTest, ...],
    interrupts: Interrupts,
    folder: Path,
    began: float,
) -> Results:
    """Run everything that was selected and has no record yet; returns all records.

    ``began`` is when the run did, before any hook was loaded, in seconds since the epoch.
    Raises ``UsageError`` where there is nothing to run, or the log cannot be written.
    """
    import pytest

    from vae_compat.front.kept_runs.resuming import finished, resumed
    from vae_compat.front.run import workers
    from vae_compat.front.run.gathering import Gathering
    from vae_compat.measure.shelf import lasting
    from vae_compat.reports.compare import hold_against
    from vae_compat.reports.pictures.exhibit import clear
    from vae_compat.reports.results import read

    before = None if options.against is None else read(options.against)
    header = header_of(options, found)
    earlier = None if options.resume is None else resumed(options.resume, header)
    known = frozenset() if earlier is None else finished(earlier)
    prepared = workers.prepared(options, found, folder, known)
    prepared.began = began
    if options.expression is not None and earlier is None:
        _refuse_nothing(options, prepared)
    given = workers.given_to_all(folder, prepared, found, known)
    gathering = Gathering(prepared, given, header, interrupts, earlier)
    if earlier is None:
        with suppress(OSError):  # then new ones cannot be written either, which is told
            clear(options.out)
    try:
        with children_resumed():
            code = int(pytest.main(_arguments(options, prepared.size, folder), plugins=[gathering]))
    finally:
        prepared.close()
        if options.cache is not None:
            lasting(options.cache).prune()
    results = _concluded(gathering, code, options, earlier)
    for why, count in gathering.unpictured.items():
        complain(f"pictures of {count} records are missing: {why}")
    return results if before is None else hold_against(results, before)


def _refuse_nothing(options: Options, run: Run) -> None:
    """Say at once that ``-k`` leaves nothing: pytest would say so after collecting all tests."""
    from vae_compat.checks.registry import BY_NAME
    from vae_compat.front.selection.matching import matches_none

    assert options.expression is not None
    names = (
        f"test_{check.tier}[{check.name}-{item.id}]"
        for check in BY_NAME.values()
        if check.tier in options.tiers_to_run
        for item in run.items(check.name)
    )
    if matches_none(options.expression, names, suites_folder()):
        raise UsageError(_nothing_left(options))


def _nothing_left(options: Options) -> str:
    """That no test was selected, and what to do."""
    if options.shard is not None:
        return f"-k leaves nothing of shard {options.shard}: split into fewer, or widen it"
    if options.expression is not None:
        return (
            f"-k '{options.expression}' leaves no check of any case: `vae-compat list` names them"
            " all, `vae-compat list --ids` the cases"
        )
    return "no check of any case was selected: widen the selection"


def _concluded(gathering: Gathering, code: int, options: Options, earlier: Log | None) -> Results:
    """The results with a verdict; the end is written to the log if possible."""
    import pytest

    from vae_compat.reports.log import End, Log, LogError, concluded
    from vae_compat.reports.results import now

    if gathering.refused is not None:
        raise UsageError(f"{gathering.refused}: give another --out")
    if code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError("pytest refused the run: see above")
    stopped = gathering.stopped or gathering.interrupted
    if stopped is None and code == pytest.ExitCode.INTERNAL_ERROR:
        stopped = "failed inside pytest"
    if gathering.writer is None and not gathering.entries:
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise UsageError(_nothing_left(options))
        raise StoppedError(f"{stopped or 'ended'} before any case ran")
    failing = any(entry.record.status in BAD for entry in gathering.entries.values())
    by_failure = options.fail_fast and failing and stopped is None
    end = End(finished=now(), stopped=stopped, by_failure=by_failure)
    header = gathering.header if earlier is None else earlier.header
    if gathering.writer is not None:
        try:
            gathering.writer.finish(end)
        except LogError as error:
            end = replace(end, stopped=end.stopped or str(error))
        gathering.writer.close()
    selected = max(gathering.selected, len(gathering.entries))
    log = Log(header, selected, gathering.entries, end)
    return concluded(log, options.out)


def header_of(options: Options, found: tuple[HookUnderTest, ...]) -> Header:
    """Where, with what and on what a run of these hooks runs."""
    from vae_compat.device import described_gpu
    from vae_compat.front.selection.cases import left_out_of
    from vae_compat.front.selection.subjects import claims_digest
    from vae_compat.reports.results import HookEntry, command_line, describe_run, now

    return describe_run(
        hooks=[
            HookEntry(
                name=under.profile.hook.name,
                entry=under.profile.hook.entry,
                kind=str(under.profile.hook.kind),
                layout=str(under.profile.hook.layout),
                profile=under.told if options.hook is None else None,
                sha256=under.facts.sha256,
                commit=under.facts.commit,
                claims=claims_digest(under.profile),
            )
            for under in found
        ],
        device=options.device,
        seed=options.seed,
        selection=options.described_selection,
        started=now(),
        command=command_line(),
        inputs=options.fingerprint,
        gpu=described_gpu(options.device),
        left_out=left_out_of(found, options),
        shard=options.shard,
    )


def _arguments(options: Options, size: int, folder: Path) -> list[str]:
    """The command line of the run as pytest takes it.

    ``size`` is the number of its cases, ``folder`` goes with the run.
    """
    suites = suites_folder()
    arguments = [str(suites / tier) for tier in options.tiers_to_run]
    # Ignore configuration and cache of the current folder, which belongs to the adopter.
    arguments += ["-c", os.devnull, "--rootdir", str(suites.parent), "-p", "no:cacheprovider"]
    # Names of folders above are for -k what names of tests are.
    arguments += [f"--confcutdir={suites.parent}"]
    # Without a folder of its own, pytest leaves one behind where it is killed.
    arguments += [f"--basetemp={folder / 'pytest'}"]
    arguments += ["-p", "vae_compat.front.run.plugin", "--import-mode=importlib"]
    arguments += ["--no-header", "-rN"]
    arguments += ["-v", "--tb=short"] if options.verbose else ["-q", "--tb=no"]
    # What is installed for an adopter's own tests stays out.
    arguments += ["--disable-plugin-autoload", "-p", "xdist"]
    arguments += ["-p", "no:junitxml", "-p", "no:faulthandler"]
    # It collects garbage at the end, half a second each time, to warn of what nobody reads here.
    arguments += ["-p", "no:unraisableexception"]
    # This package has no plain asserts whose values pytest could show.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    arguments += ["-n", str(worker_count(options, size)), f"--max-worker-restart={LOST_WORKERS}"]
    if options.fail_fast:
        arguments += ["--maxfail=1"]
    if options.expression is not None:
        arguments += ["-k", options.expression]
    return arguments


def worker_count(options: Options, size: int) -> int:
    """One process a core; a single case, or a GPU that all would share, wants one."""
    if options.workers is not None:
        return min(options.workers, max(size, 1))
    if options.case is not None or options.device == Device.CUDA:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), max(size, 1))
    return min(os.cpu_count() or 1, max(size, 1))


def suites_folder() -> Path:
    """The suites as they are installed, so that a run works from any folder."""
    return Path(str(resources.files("vae_compat.suites")))
