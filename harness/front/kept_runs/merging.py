"""``vae-compat merge``: one log, verdict and report of the shards of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.errors import UsageError
from vae_compat.front.kept_runs.reporting import report
from vae_compat.front.kept_runs.resuming import differences
from vae_compat.front.selection.sharding import Shard
from vae_compat.front.selection.validation import check_against, check_output

if TYPE_CHECKING:
    from vae_compat.reports.log import End, Entry, Key, Log
    from vae_compat.reports.results import Header


@dataclass(frozen=True)
class Part:
    """What one shard has left behind."""

    folder: Path
    shard: Shard
    log: Log
    end: End


def merge(
    folders: Sequence[Path],
    out: Path,
    *,
    junitxml: Path | None = None,
    against: Path | None = None,
    opened: bool = False,
) -> int:
    """Write and print the whole that the shards make, and return the exit code of the gate.

    Raises ``UsageError`` where they do not make a whole; nothing is written then.
    """
    from vae_compat.reports.log import write_log
    from vae_compat.reports.pictures.exhibit import gather

    check_output(out, junitxml)
    for folder in folders:
        if folder.resolve() == out.resolve():
            raise UsageError(f"--out {out} is a shard itself: give another folder")
    check_against(against, out)
    write_log(whole(folders), out)
    with suppress(OSError):  # pictures decide nothing
        for folder in folders:
            gather(folder, out)
    return report(out, junitxml=junitxml, against=against, opened=opened)


def whole(folders: Sequence[Path]) -> Log:
    """The log that the run would have written in one piece. Raises ``UsageError``."""
    from vae_compat.reports.log import End, Log

    parts = [_part(folder) for folder in folders]
    _check_complete(parts)
    for part in parts[1:]:
        _check_alike(parts[0], part)
    parts.sort(key=lambda part: part.shard.number)
    entries: dict[Key, Entry] = {}
    for part in parts:
        for key, entry in part.log.entries.items():
            if key in entries:
                raise UsageError(
                    f"{part.folder}: another shard has {entry.record.id} as well: run all shards"
                    " with the same version of vae-compat"
                )
            entries[key] = entry
    end = End(
        finished=max(part.end.finished for part in parts),
        by_failure=any(part.end.by_failure for part in parts),
    )
    return Log(
        header=_header([part.log.header for part in parts]),
        selected=sum(part.log.selected for part in parts),
        entries=entries,
        end=end,
    )


def _part(folder: Path) -> Part:
    """A shard that ran to its end, or to its first failure where it was to stop there."""
    from vae_compat.reports.log import read_log

    log = read_log(folder)
    if log.header.shard is None:
        raise UsageError(f"{folder} is no shard: it was run without --shard")
    try:
        shard = Shard.of(log.header.shard)
    except ValueError as error:
        raise UsageError(f"{folder}: {log.header.shard!r:.40} is no shard: {error}") from None
    end, count = log.end, len(log.entries)
    if end is None or end.stopped is not None or (count < log.selected and not end.by_failure):
        why = "was cut off" if end is None else (end.stopped or "ended")
        raise UsageError(
            f"shard {shard} in {folder} {why} after {count} of {log.selected} records: go on with"
            f" --resume {folder}"
        )
    return Part(folder, shard, log, end)


def _check_complete(parts: Sequence[Part]) -> None:
    """Refuse shards that are missing, doubled, or of different splits."""
    first = parts[0]
    found: dict[int, Part] = {}
    for part in parts:
        if part.shard.count != first.shard.count:
            raise UsageError(
                f"{first.folder} is shard {first.shard} and {part.folder} is {part.shard}: give"
                " the shards of one split"
            )
        if part.shard.number in found:
            twin = found[part.shard.number]
            raise UsageError(f"{twin.folder} and {part.folder} are both shard {part.shard}")
        found[part.shard.number] = part
    count = first.shard.count
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in found]
    if missing:
        named = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise UsageError(f"shard {named} is missing: give the folders of all {count}")


def _check_alike(first: Part, part: Part) -> None:
    """Refuse shards of other hooks, selections, seeds, devices or versions."""
    other = replace(part.log.header, shard=first.log.header.shard)
    for what, before, now in differences(first.log.header, other):
        raise UsageError(
            f"{first.folder} and {part.folder} are shards of different runs: {what} is {before} in"
            f" the one and {now} in the other"
        )


def _header(headers: Sequence[Header]) -> Header:
    """The header of the whole; machines that differ are all told."""
    from vae_compat.reports.results import command_line

    def all_of(name: str) -> str:
        return "; ".join(dict.fromkeys(getattr(header, name) for header in headers))

    return replace(
        headers[0],
        shard=None,
        python=all_of("python"),
        platform=all_of("platform"),
        cpu=all_of("cpu"),
        started=min(header.started for header in headers),
        command=command_line(),
    )
