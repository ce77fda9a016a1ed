"""What the harness costs beyond the forwards that a run needs, and what a second process saves."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from vae_compat.cases import Case, Layout, Scale
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.front.options import Options
from vae_compat.front.session import Run
from vae_compat.front.subjects import load_subject
from vae_compat.vocabulary import DEFAULT_PROFILES


def _run(workers: int, *more: str) -> tuple[float, float]:
    """Wall and CPU seconds of a run in fresh processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-m", "vae_compat", "run", "-n", str(workers)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *more], capture_output=True, env=environment, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def _bare(cases: dict[str, tuple[Case, ...]], run: Run) -> dict[str, float]:
    """CPU seconds of the forwards alone: each truth and untiled result once, each hook once.

    On the plain CPU, without meters, checks or records.
    """
    spent = {"truth": 0.0, "untiled": 0.0, "hook": 0.0}
    known: set[str] = set()
    bench = run.bench

    def clocked(what: str, act) -> None:
        start = time.process_time()
        with contextlib.suppress(Exception):  # a hook that fails early is cheap, here as there
            act()
        spent[what] += time.process_time() - start

    pairs = [(name, case) for name, some in cases.items() for case in some]
    for name, case in sorted(pairs, key=lambda pair: run.place(*pair)):
        view = bench._view(case)
        x = bench.supplies.make_input(case)
        if case.baseline_id not in known:
            known.add(case.baseline_id)
            twin = bench.supplies.views(
                bench.supplies.truth(bench._vae(case)), Layout.DIFFUSERS, case.facts
            )[0]
            clocked("truth", lambda twin=twin, case=case, x=x: twin.run(case.direction, x.double()))
            clocked("untiled", lambda view=view, case=case, x=x: view.run(case.direction, x))
        plain = replace(case, device="cpu")
        fitting = run.subjects[name].hook.put_on(view, plain)
        with fitting as hooked:
            clocked("hook", lambda case=case, x=x, hooked=hooked: hooked(case.direction, x))
    return spent


@pytest.mark.benchmark(group="overhead")
def test_cpu_time_of_a_run_over_its_bare_forwards(benchmark) -> None:
    """At most 1.25 times the forwards, imports aside; two processes at least 1.6 times as fast."""
    wall_one, cpu_one = benchmark.pedantic(_run, args=(1,), rounds=1)
    wall_two, cpu_two = _run(2)
    _, imports = _run(1, "-k", "nothing_matches_this")
    options = Options(profile=DEFAULT_PROFILES)
    profiles = [(name, load_subject(name)) for name in DEFAULT_PROFILES]
    run = Run.prepare(options, profiles, Fixtures())
    with torch.no_grad():
        spent = _bare(dict(run.cases), run)
    run.close()
    benchmark.extra_info |= {
        "cases": sum(map(len, run.cases.values())),
        "real cases": sum(case.scale is Scale.REAL for c in run.cases.values() for case in c),
        "wall -n 1": wall_one,
        "wall -n 2": wall_two,
        "speed-up": wall_one / wall_two,
        "cpu": cpu_one,
        "cpu -n 2": cpu_two,
        "imports": imports,
        "bare forwards": sum(spent.values()),
        "cpu ratio": (cpu_one - imports) / sum(spent.values()),
    } | {f"bare {what}": seconds for what, seconds in spent.items()}
