"""The Python API: judge a hook from another program or from a test of its own.

::

    from vae_compat import check_hook

    def test_my_tiling() -> None:
        check_hook("tiled_vae.py:VAEHook", families=["sd", "qwen"]).raise_for_failures()
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_compat.contracts.caseid import record_id
from vae_compat.errors import StoppedError, UsageError
from vae_compat.front.ending import answered
from vae_compat.front.run.run_folder import RunFolder
from vae_compat.front.selection.options import SECONDS, Options
from vae_compat.vocabulary import BAD, ExitCode

if TYPE_CHECKING:
    from vae_compat.reports.results import Results

TOLD = 10
"""Failures that an exception names."""
SELECTING = ("families", "directions", "modes", "scales", "tiers")
"""Arguments that narrow the selection: any sequence of words."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from vae_compat.front.api import child; child()"


class HookFailureError(AssertionError):
    """The gate does not hold. Names the first failures, with the command that repeats each."""


@dataclass(frozen=True)
class ReportedFinding:
    """What one check says of one case."""

    case: str
    check: str
    status: str
    """``passed``, ``failed``, ``error``, ``xfailed``, ``xpassed`` or ``skipped``."""
    grade: str | None
    """``exact``, ``lossless``, ``close``, ``degraded`` or ``broken``, where the check grades."""
    metrics: Mapping[str, float | int | str | None]
    """``None`` reads ``not measured``."""
    message: str
    """Empty where the check passed."""
    hook: str
    repeat: str | None
    """The command that repeats the case."""

    @property
    def id(self) -> str:
        """``parity[sd-mock-ldm-decode-...]``."""
        return record_id(self.check, self.case)


@dataclass(frozen=True)
class Report:
    """All that was found about a hook."""

    findings: tuple[ReportedFinding, ...]
    code: ExitCode
    """The exit code of ``vae-compat run``."""
    reason: str
    """Why the gate does not hold."""
    results: Results = field(repr=False)
    """The whole run, as it is stored."""

    @property
    def holds(self) -> bool:
        """Whether everything that was promised is kept."""
        return self.code is ExitCode.HOLDS

    @property
    def failures(self) -> tuple[ReportedFinding, ...]:
        """The findings that break the gate."""
        return tuple(finding for finding in self.findings if finding.status in BAD)

    def raise_for_failures(self) -> None:
        """Do nothing where the gate holds.

        Raises:
            HookFailureError: where it does not.
            StoppedError: where the harness itself failed, so that there is no verdict.
        """
        if self.code is ExitCode.HARNESS:
            raise StoppedError(self.reason)
        if self.holds:
            return
        lines = [f"the gate does not hold: {self.reason}"]
        for finding in self.failures[:TOLD]:
            lines.append(f"{finding.id}: {finding.message}")
        if len(self.failures) > TOLD:
            lines.append(f"and {len(self.failures) - TOLD} more")
        raise HookFailureError("\n".join(lines))

    def table(self, width: int = 80) -> str:
        """What ``vae-compat run`` prints at its end."""
        from vae_compat.reports.table import to_text

        return to_text(self.results, width=width)


def check_hook(
    hook: str | Path | Callable[..., Any] | None = None,
    *,
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
    case: str | None = None,
    expression: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    timeout: float = SECONDS,
    comfyui: str | Path | None = None,
    out: str | Path | None = None,
    against: str | Path | None = None,
    cache: str | Path | None = None,
) -> Report:
    """Judge a hook; the same as ``vae-compat run``, in processes of its own.

    ``hook`` is ``FILE_OR_MODULE:ATTRIBUTE``, a class or function that can be imported, or a
    profile (a TOML file, or the name of an embedded one); without it the reference hook is judged.
    ``kind`` (default ``forward``), ``layout`` and ``host`` describe it where it is no profile.
    ``claims`` are what ``[claims]`` of a profile may hold; without them everything is claimed that
    the hook can be asked for. ``families`` to ``tiers`` narrow the selection, empty means the
    default. ``timeout`` is in seconds of CPU time for one call, or 30 times what untiled took if
    that is more. ``expression`` is that of ``-k``, ``workers`` that of ``-n``. ``out`` is a folder
    for the reports, ``cache`` one in which truths and baselines last from run to run, ``against``
    an earlier ``results.json`` that must not get worse.

    Raises:
        UsageError: where anything about the arguments or the hook is wrong; nothing was run.
        StoppedError: where the run was stopped, or failed, before there was anything to report.
    """
    with RunFolder(inherited=False) as scratch:  # children of other threads are none of ours
        options = asked(
            hook,
            kind=kind,
            layout=layout,
            host=host,
            claims=claims,
            families=families,
            directions=directions,
            modes=modes,
            scales=scales,
            tiers=tiers,
            full=full,
            device=device,
            case=case,
            expression=expression,
            seed=seed,
            workers=workers,
            timeout=timeout,
            comfyui=_path(comfyui),
            out=_path(out) or scratch.path / "out",
            against=_path(against),
            cache=_path(cache),
        )
        return _report(options, *_run(options, scratch.environment))


def _path(told: str | Path | None) -> Path | None:
    return None if told is None else Path(told)


def asked(hook: str | Path | Callable[..., Any] | None, **told: Any) -> Options:
    """Options for a hook that is given as `check_hook` takes it; ``told`` are others of them.

    Raises ``UsageError``.
    """
    profile, entry = _told(hook)
    describing = ("kind", "layout", "host", "claims")
    given = [name for name in describing if told.get(name) is not None]
    if entry is None and given:
        raise UsageError(f"{given[0]} describes a hook, and a profile was given: leave it out")
    for name in SELECTING:
        if isinstance(told[name], str):
            raise UsageError(f"{name} is '{told[name]}': give a list, such as ['{told[name]}']")
        told[name] = tuple(told[name])
    return Options(profile=profile, hook=entry, **told)


def _told(hook: str | Path | Callable[..., Any] | None) -> tuple[tuple[str, ...], str | None]:
    """The profile, or the entry, that a hook is given by."""
    if hook is None:
        return (), None
    if callable(hook):
        return (), entry_of(hook)
    told = str(hook)
    if told.endswith(".toml") or ":" not in told:
        return (told,), None
    return (), told


def entry_of(hook: Callable[..., Any]) -> str:
    """``FILE:ATTRIBUTE`` of a class or function. Raises ``UsageError`` where it cannot be found."""
    name = getattr(hook, "__qualname__", None)
    try:
        file = inspect.getsourcefile(hook)
    except TypeError:
        file = None
    if name is None or file is None or "<" in name or not Path(file).is_file():
        raise UsageError(
            f"{hook!r:.80} cannot be loaded in another process: give a class or function at the top"
            " of a file, or FILE_OR_MODULE:ATTRIBUTE"
        )
    return f"{file}:{name}"


def _run(options: Options, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run in a process of its own, which ends with this one; returns its code and complaint."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        _, complaint = process.communicate(options.to_json())
    except BaseException:
        process.terminate()  # it ends in order, and cleans up
        process.wait()
        raise
    return process.returncode, complaint.strip()


def child() -> None:
    """The other side of ``_run``."""
    from vae_compat.front.run.running import run

    options = Options.from_json(sys.stdin.read())
    sys.exit(int(answered(lambda: run(options), running=True)))


def _report(options: Options, code: int, complaint: str) -> Report:
    from vae_compat.reports.results import FILE_NAME, read

    sentence = complaint.rpartition("vae-compat: ")[2] or f"the run ended with status {code}"
    if code == ExitCode.USAGE:
        raise UsageError(sentence)
    if code not in list(ExitCode) or not (options.out / FILE_NAME).exists():
        raise StoppedError(sentence)
    results = read(options.out)
    findings = tuple(reported(vars(record)) for record in results.records)
    reason = results.verdict.reason if code != ExitCode.HARNESS else sentence
    return Report(findings, ExitCode(code), reason, results)


def reported(record: Mapping[str, Any]) -> ReportedFinding:
    """A finding as this module reports it, from the fields of a record."""
    names = (entry.name for entry in fields(ReportedFinding))
    return ReportedFinding(**{name: record[name] for name in names})
