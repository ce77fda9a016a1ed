"""results.json: what a run leaves behind, written whole or not at all, and read back checked."""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import platform
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from vae_compat.contracts.finding import Grade
from vae_compat.errors import UsageError
from vae_compat.judge import Record, Verdict
from vae_compat.machine import CudaDescription

SCHEMA = 1
DEFAULT_FOLDER = Path("reports/out")
"""Relative to the working directory of the run."""
FILE_NAME = "results.json"

_Kind = TypeVar("_Kind")
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""JSON has no word for these; an infinite PSNR must survive all the same."""


@dataclass(frozen=True)
class HookEntry:
    """The hook under test, as the run was told to load it."""

    name: str
    entry: str
    kind: str
    layout: str
    profile: str | None = None
    """Path or embedded name of the profile; ``None`` where the hook came by flags."""
    sha256: str | None = None
    """Hash of the hook's file, or of all files of its package."""
    commit: str | None = None
    """Commit of the file's repository, with ``+`` where files differ from it."""
    claims: str | None = None
    """SHA-256 of what the profile claims and knows."""


@dataclass(frozen=True)
class Header:
    """Where, with what and on what a run ran."""

    schema: int
    version: str
    """Version of vae-compat."""
    python: str
    torch: str
    diffusers: str
    platform: str
    cpu: str
    device: str
    hooks: tuple[HookEntry, ...]
    commit: str | None
    """Commit of the harness checkout; ``None`` where the package is installed."""
    seed: int
    selection: str
    """``default`` or ``full``, with what narrowed it."""
    started: str
    finished: str
    """Empty while the run goes on."""
    command: str
    inputs: str = ""
    """Identifies seed, weights, picture and torch, which also decide what is measured."""
    gpu: CudaDescription | None = None
    """The GPU of a run on ``cuda``."""
    left_out: tuple[str, ...] = ()
    """A sentence for each family that was asked for and that the installed diffusers lacks."""
    shard: str | None = None
    """``1/4`` where only the first of four parts of the selection was to be run."""


@dataclass(frozen=True)
class Results:
    """A whole run."""

    header: Header
    records: tuple[Record, ...]
    verdict: Verdict
    diagnosis: tuple[str, ...] = ()
    """Sentences such as ``sd decode exact (ldm): attention is computed per tile``."""
    against: str = ""
    """Which earlier run this one was compared with: when it began, and the commits of its hooks."""
    regressions: tuple[str, ...] = ()
    """What became worse since the earlier run that this one was compared with."""
    new: tuple[str, ...] = ()
    """Failures of records that the earlier run did not have."""
    mended: tuple[str, ...] = ()
    """What became better since the earlier run."""
    drift: tuple[str, ...] = ()
    """Counters that moved, by less than what makes a regression."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and what else differs between the two runs."""


def now() -> str:
    """This moment in UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe_run(
    *,
    hooks: Iterable[HookEntry],
    device: str,
    seed: int,
    selection: str,
    started: str,
    command: str,
    finished: str = "",
    inputs: str = "",
    gpu: CudaDescription | None = None,
    left_out: Sequence[str] = (),
    shard: str | None = None,
) -> Header:
    """Fill a header. Starts no torch: versions come from metadata."""
    return Header(
        schema=SCHEMA,
        version=_version("vae-compat"),
        python=platform.python_version(),
        torch=_version("torch"),
        diffusers=_version("diffusers"),
        platform=platform.platform(),
        cpu=_cpu_name(),
        device=device,
        hooks=tuple(hooks),
        commit=_own_commit(),
        seed=seed,
        selection=selection,
        started=started,
        finished=finished,
        command=command,
        inputs=inputs,
        gpu=gpu,
        left_out=tuple(left_out),
        shard=shard,
    )


def write(results: Results, folder: Path = DEFAULT_FOLDER) -> Path:
    """Write ``folder/results.json`` atomically and return its path.

    A reader never sees half a file, and an aborted run leaves the previous one in place.
    """
    text = json.dumps(jsonable(asdict(results)), indent=1, allow_nan=False)
    return write_text(folder / FILE_NAME, text + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a report file atomically, making its folder."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write reports to '{path.parent}' ({error.strerror}): give another --out"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return path


def read(path: Path) -> Results:
    """Read a results file, or the one in a folder.

    Raises ``UsageError`` where there is none, or where the file is no results file of this schema.
    """
    file = path / FILE_NAME if path.is_dir() else path
    check_regular(file, "give a results.json of an earlier run")
    try:
        document = parsed_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror
        raise UsageError(
            f"cannot read '{file}' ({reason}): give a results.json of an earlier run"
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(
            f"'{file}' is no JSON: give a results.json that vae-compat wrote"
        ) from None
    header = document.get("header") if isinstance(document, dict) else None
    check_schema(header, file)
    results = validated(Results, _restored(document), file)
    for record in results.records:
        if record.grade is not None and record.grade not in list(Grade):
            raise UsageError(
                f"'{file}' has the unknown grade {record.grade!r} in {record.id}: make it anew"
                " with vae-compat run"
            )
    return results


def check_regular(file: Path, advice: str) -> None:
    """Refuse anything but a plain file before opening it: reading from a pipe would never end."""
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read '{file}' ({reason}): {advice}") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"'{file}' is no plain file: {advice}")


def check_schema(header: Any, file: Path) -> None:
    """Refuse a header of another kind or version of file."""
    if not isinstance(header, dict) or "schema" not in header:
        raise UsageError(
            f"'{file}' is no results file (no header with a schema): give a results.json that"
            " vae-compat wrote"
        )
    if header["schema"] != SCHEMA:
        raise UsageError(
            f"'{file}' has results schema {header['schema']!r:.40} and this version reads"
            f" {SCHEMA}: make it anew with this version"
        )


def validated(kind: type[_Kind], value: Any, file: Path) -> _Kind:
    """Plain data as a dataclass. Raises ``UsageError`` that names the first wrong place."""
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value)  # type: ignore[no-any-return,arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"'{file}' is no valid results file ({where}: {first['msg']}): make it anew with"
            " vae-compat run"
        ) from None


@functools.cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def parsed_json(text: str) -> Any:
    """JSON without the words that it does not have. Raises ``ValueError``, ``RecursionError``."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def jsonable(value: Any) -> Any:
    """Plain data with what JSON cannot say replaced."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _restored(document: dict[str, Any]) -> dict[str, Any]:
    """Undo ``jsonable`` where it can matter: in the metrics."""
    records = document.get("records")
    if not isinstance(records, list):
        return document
    return {**document, "records": [restored_record(record) for record in records]}


def restored_record(record: Any) -> Any:
    """Undo ``jsonable`` for one record."""
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        return record
    metrics = {
        name: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
        for name, value in record["metrics"].items()
    }
    return {**record, "metrics": metrics}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def _cpu_name() -> str:
    """The model name where the system tells it, and the number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def _own_commit() -> str | None:
    """The commit of the checkout that this module lies in; none where it is installed."""
    root = Path(__file__).resolve().parent.parent
    return commit_of(root) if (root / ".git").exists() else None


def commit_of(folder: Path, file: Path | None = None) -> str | None:
    """The commit of a checkout that a folder lies in, with ``+`` where files differ from it.

    ``file`` must be part of the commit as well: one that git does not know is no part of any.
    """
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    head = _git(folder, ["rev-parse", "--short=12", "HEAD"])
    if not head:
        return None
    differs = bool(_git(folder, ["status", "--porcelain", "-uno"]))
    if file is not None and not _git(folder, ["ls-files", "--", str(file)]):
        differs = True
    return head + ("+" if differs else "")


def _git(root: Path, arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            # No program that the repository configures may run here.
            ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def command_line() -> str:
    """The command that started this process, as one types it."""
    import shlex

    program = Path(sys.argv[0]).name if sys.argv else "vae-compat"
    return shlex.join([program, *sys.argv[1:]])
