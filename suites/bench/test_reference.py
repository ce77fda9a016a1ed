"""Cost of the hook that ships here, at published sizes, compared with untiled and others."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.measure.bench import Bench
from vae_compat.subject.profile import load_embedded, profile_from_flags
from vae_compat.suites.bench.measuring import Figures, compare, count, parked_bytes
from vae_compat.suites.bench.rows import ROWS, Row
from vae_compat.suites.bench.tables import TABLES
from vae_compat.suites.selftest.shapes import counted, over_weights

OURS, THEIRS, PUBLISHED = "this hook", "diffusers' tiling", "published hook"
MIB = 2**20


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(Fixtures(), tmp_path_factory.mktemp("bench"))


def contenders(row: Row, published: str | None):
    """Profiles by name; ours first."""
    ours = "vae_compat.suites.bench.resting:" + ("hook" if row.rests else "offloading")
    found = {OURS: profile_from_flags(ours, modes=["exact"])}
    if row.beside:
        found[THEIRS] = load_embedded("diffusers")
        if published is not None:
            flags = (published, "forward", "ldm", "comfyui")
            found[PUBLISHED] = profile_from_flags(*flags, modes=["exact"], folder=Path.cwd())
    return found


@pytest.mark.benchmark(group="reference")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row(row: Row, bench, benchmark, request) -> None:
    """Counts keep the bounds; time informs."""
    config = request.config
    published, alone = config.getoption("--published"), config.getoption("--counts-alone")
    profiles = contenders(row, None if alone else published)
    truth = row.truth and not alone
    if alone:
        found = benchmark.pedantic(count, args=(row.case, profiles), rounds=1)
    else:
        asked = {"rounds": config.getoption("--rounds"), "truth": truth}
        found = benchmark.pedantic(
            compare, args=(bench, row.case, profiles), kwargs=asked, rounds=1
        )
    if row.beside:
        found.setdefault(PUBLISHED, "not given")
    config.stash[TABLES].add(row, found)
    ours = found[OURS]
    assert isinstance(ours, Figures), ours
    benchmark.extra_info |= asdict(ours)
    assert ours.peak <= row.peak
    assert ours.flops <= row.flops
    assert ours.moved <= most_moved(row)
    assert ours.grade == ("exact" if truth else None)
    for name, figures in found.items():
        if name == OURS or isinstance(figures, str):
            continue
        assert figures.flops > ours.flops, f"{name} computes less"
        assert not truth or figures.error > ours.error, f"{name} is nearer to the truth"


def most_moved(row: Row) -> float:
    """Bytes that may go from host to device."""
    if row.remark == "input and parked caches":
        # A tile reads the remembered frames of its halo too: a few rows and columns more.
        return 1.05 * parked_bytes(row.case)
    return float("inf") if row.moved is None else row.moved * MIB


@pytest.mark.benchmark(group="growth")
@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_peak_against_image_size(family: str, benchmark, request) -> None:
    """From 512 to 2048 px, counted on shapes: the hook grows by 5 % of what untiled grows by."""
    small = Case(family, Scale.REAL, Layout.DIFFUSERS, Direction.DECODE, Mode.EXACT, 64, 64, 16)
    large = replace(small, height=256, width=256)

    def peaks() -> list[tuple[int, int]]:
        return [
            (over_weights(counted(case, None)), over_weights(counted(case, 128)))
            for case in (small, large)
        ]

    found = benchmark.pedantic(peaks, rounds=1)
    (untiled, ours), (untiled_large, ours_large) = found
    growth = (ours_large - ours) / (untiled_large - untiled)
    lines = request.config.stash[TABLES].growth
    for size, pair, said in ((512, found[0], ""), (2048, found[1], f"{growth:.2%}")):
        told = [f"{value / MIB:.1f} MiB" for value in pair]
        lines.append([small.facts.name, f"{size} px", *told, said])
    benchmark.extra_info |= {"growth": growth}
    assert growth <= 0.05
