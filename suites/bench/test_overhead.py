"""What the harness costs beyond the forwards that a run needs, and what a second process saves.

Counts keep bounds; time informs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_compat.checks.registry import BY_NAME, CHECKS
from vae_compat.contracts.cases import Case, Layout, Scale
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.front import cli
from vae_compat.front.run.session import Item, Run
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.subjects import load_subject
from vae_compat.measure.draws import DRAWS
from vae_compat.measure.models import key_of
from vae_compat.subject.loading import load_hook
from vae_compat.suites.bench.asking import SMALL, CountedRunners, CountedSupplies

DOUBTFUL = 0.25
"""Share of the untiled results whose noise may have to be drawn again."""


def options_of(words: str) -> Options:
    """As ``vae-compat run`` understands them."""
    return cli.options_of(cli.parser().parse_args(["run", *shlex.split(words)]))


@contextlib.contextmanager
def prepared(options: Options, supplies: Any) -> Iterator[Run]:
    """A run of these options in this process."""
    profiles = [(name, load_subject(name)) for name in options.profiles]
    run = Run.prepare(options, profiles, supplies)
    try:
        yield run
    finally:
        run.close()


def items_of(run: Run) -> list[Item]:
    """The tests of a run, in the order in which a worker has them."""
    tiers = run.options.tiers_to_run
    checks = [check.name for check in CHECKS if str(check.tier) in tiers]
    return sorted(
        (item for check in checks for item in run.items(check)),
        key=lambda item: run.place(item.subject, item.case),
    )


def test_run_asks_for_each_forward_once() -> None:
    """One truth and one untiled result for all hooks, modes and checks; a hook once for a case."""
    supplies = CountedSupplies(Fixtures())
    with prepared(options_of(SMALL), supplies) as run, CountedRunners(run.runners) as runners:
        run.runners = runners
        _without_tiles(run.bench, supplies)
        items = [item for item in items_of(run) if item.case.scenario is None]
        for item in items:
            observed = run.observe(item)
            run.record(item, observed, BY_NAME[item.check](observed))
    performed = {(item.subject, item.case) for item in items}
    cases = {case for _, case in performed}
    truths, untiled = {case.truth_id for case in cases}, {case.baseline_id for case in cases}
    assert len(run.subjects) == 2
    assert len(items) > len(performed) > len(untiled) > len(truths)  # there is something to share
    assert runners.asked == len(performed)
    assert supplies.truths == len(truths)
    drawn, others = divmod(supplies.untiled - len(untiled), DRAWS)
    assert 0 <= drawn <= DOUBTFUL * len(untiled)
    assert others == 0
    # Weights reach runners in float32, and no VAE is built for that alone that a case has.
    dtypes = {(key_of(case), dtype) for case in cases for dtype in (case.dtype, "float32")}
    assert supplies.built <= len(dtypes)


def _without_tiles(bench: Any, supplies: CountedSupplies) -> None:
    """Count no forwards of plain tiles: they are not of whole planes."""
    beside = bench.beside_plain_tiles

    def uncounted(observation: Any) -> Any:
        before = supplies.untiled
        found = beside(observation)
        supplies.untiled = before
        return found

    bench.beside_plain_tiles = uncounted


@pytest.mark.benchmark(group="overhead")
def test_time_of_a_run_over_its_bare_forwards(
    benchmark: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two processes judge what one judges, and nothing twice.

    Seconds of wall time: a worker and its runner take turns, so with one worker that is about what
    a quiet machine computes. The kernel does not add the CPU time of runners to their parent's.
    """
    selection = request.config.getoption("--selection")
    given = {"args": (tmp_path / "one", 1, selection), "rounds": 1}
    wall_one, one = benchmark.pedantic(_run, **given)
    wall_two, two = _run(tmp_path / "two", 2, selection)
    imports, nothing = _run(tmp_path / "none", 1, f"{selection} -k nothing_matches_this")
    with prepared(options_of(selection), Fixtures()) as run:
        items = items_of(run)
        with torch.no_grad():
            spent = _bare(run, {(item.subject, item.case) for item in items})
    benchmark.extra_info |= {
        "cases": run.size,
        "real cases": sum(case.scale is Scale.REAL for c in run.cases.values() for case in c),
        "-n 1": wall_one,
        "-n 2": wall_two,
        "speed-up": wall_one / wall_two,
        "imports": imports,
        "bare forwards": sum(spent.values()),
        "ratio": (wall_one - imports) / sum(spent.values()),
    } | {f"bare {what}": seconds for what, seconds in spent.items()}
    expected = sorted((item.subject, f"{item.check}[{item.case.id}]") for item in items)
    assert expected
    assert one == two == expected
    assert nothing == []


def _run(out: Path, workers: int, selection: str) -> tuple[float, list[tuple[str, str]]]:
    """Wall seconds of a run in fresh processes, and its records by hook and id."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "vae_compat", "run", "-n", str(workers), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *shlex.split(selection)], capture_output=True, env=environment, text=True
    )
    wall = time.perf_counter() - start
    results = out / "results.json"
    records = json.loads(results.read_text())["records"] if results.exists() else []
    assert done.returncode in (0, 1) or not records, done.stdout + done.stderr
    told = sorted((each["hook"], f"{each['check']}[{each['case']}]") for each in records)
    return wall, told


def _bare(run: Run, pairs: set[tuple[str, Case]]) -> dict[str, float]:
    """CPU seconds of the forwards alone: each truth and untiled result once, each hook once.

    On the plain CPU, without meters, checks or records. Several calls in a case count as one.
    """
    spent = {"truth": 0.0, "untiled": 0.0, "hook": 0.0}
    known: set[str] = set()
    bench = run.bench
    hooks = {name: load_hook(subject.profile) for name, subject in run.subjects.items()}

    @contextlib.contextmanager
    def clocked(what: str) -> Iterator[None]:
        start = time.process_time()
        with contextlib.suppress(Exception):  # a hook that fails early is cheap, here as there
            yield
        spent[what] += time.process_time() - start

    for name, case in sorted(pairs, key=lambda pair: run.place(*pair)):
        view, x = bench.view(case), bench.make_input(case)
        if case.truth_id not in known:
            with clocked("truth"):
                bench.twin(replace(case, layout=Layout.DIFFUSERS)).run(case.direction, x.double())
        if case.baseline_id not in known:
            with clocked("untiled"):
                view.run(case.direction, x)
        known |= {case.truth_id, case.baseline_id}
        with clocked("hook"), hooks[name].put_on(view, replace(case, device="cpu")) as hooked:
            hooked(case.direction, x)
    return spent
