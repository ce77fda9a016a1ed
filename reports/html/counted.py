"""What the simulated accelerator counted of a hook, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vae_compat.contracts.caseid import parse_case_id
from vae_compat.judge import Record
from vae_compat.reports import digest

CHECK = "transfers"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.2f}" if value else "0"


Column = tuple[tuple[str, ...], Callable[[float], str]]
COLUMNS: dict[str, Column] = {
    "launches": (("kernels",), _count),
    "read and written, MiB": (("kernel_bytes_read", "kernel_bytes_written"), _mebibytes),
    "waits of the host": (("waits",), _count),
    "copied, MiB": (("host_to_device", "device_to_host"), _mebibytes),
    "pageable": (("pageable_bytes",), _mebibytes),
    "strided": (("strided_bytes",), _mebibytes),
    "collections, cleared caches": (("collections", "cache_clears"), _count),
    "pageable host memory, MiB": (("host_peak_pageable",), _mebibytes),
    "pinned": (("host_peak_pinned",), _mebibytes),
}
"""Head of a column: the metrics that it adds up, and how the sum is written."""


@dataclass(frozen=True)
class Count:
    """One number of the table."""

    value: float
    text: str


@dataclass(frozen=True)
class CountRow:
    """The highest counts of one direction and mode."""

    place: str
    counts: tuple[Count | None, ...]


def counted(records: Iterable[Record]) -> tuple[CountRow, ...]:
    """The highest of every counter in the cases of a hook, for each direction and mode."""
    found: dict[str, dict[str, float]] = {}
    for record in records:
        case = parse_case_id(record.case)
        if record.check != CHECK or case is None or not digest.must_tile(case):
            continue
        told = found.setdefault(f"{case.direction} {case.mode}", {})
        for head, (names, _) in COLUMNS.items():
            values = [record.metrics.get(name) for name in names]
            numbers = [value for value in values if isinstance(value, int | float)]
            if len(numbers) == len(names):
                told[head] = max(told.get(head, 0.0), sum(numbers))
    return tuple(
        CountRow(
            place,
            tuple(
                Count(told[head], write(told[head])) if head in told else None
                for head, (_, write) in COLUMNS.items()
            ),
        )
        for place, told in found.items()
    )
