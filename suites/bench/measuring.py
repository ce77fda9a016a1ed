"""Runs contenders and the untiled VAE: counted on a simulated accelerator, timed on the CPU."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from vae_compat.checks.parity import grade_of
from vae_compat.contracts.cases import Case, Layout
from vae_compat.contracts.promise import Promise
from vae_compat.device import Reading, open_device
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes.building import unseeded
from vae_compat.measure.baseline import measure_truth
from vae_compat.measure.bench import Bench
from vae_compat.measure.distance import distance_of, noise
from vae_compat.measure.draws import draw_floors, in_doubt, with_draws
from vae_compat.measure.observation import Baseline, Observation
from vae_compat.measure.placing import live_bytes
from vae_compat.subject.hook import Hook
from vae_compat.subject.loading import load_hook
from vae_compat.subject.profile import Profile

UNTILED = "untiled"


@dataclass(frozen=True)
class Figures:
    """What one contender took, against untiled."""

    peak: float
    flops: float
    moved: int
    """Bytes from host to device."""
    time: float | None
    """CPU time of one thread; the median of some rounds, ``None`` where nothing was computed."""
    error: float | None
    """In floors; ``None`` where there is no truth."""
    grade: str | None


@dataclass
class Series:
    """What one contender did, round by round."""

    hook: Hook | None
    layout: Layout
    seconds: list[float] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    output: Tensor | None = None
    failure: str | None = None

    @property
    def median(self) -> float:
        """CPU seconds."""
        return statistics.median(self.seconds)


def compare(
    bench: Bench, case: Case, contenders: Mapping[str, Profile], *, rounds: int, truth: bool
) -> dict[str, Figures | str]:
    """Figures of each contender, or in words why there are none.

    One round runs the untiled VAE and every contender once, so that all of them meet the same
    moments of a busy machine.
    """
    x = bench.make_input(case)
    right = measure_truth(case, bench.twin(case), x, open_device("cpu")) if truth else None
    runs = {UNTILED: Series(None, case.layout)}
    for name, profile in contenders.items():
        own = profile.hook.layout == Layout.DIFFUSERS
        layout = Layout.DIFFUSERS if own else Layout(case.facts.coder_layout)
        runs[name] = Series(load_hook(profile), layout)
    views = {run.layout: bench.view(replace(case, layout=run.layout)) for run in runs.values()}
    weights = _run(case, runs, views, x)
    _time(case, runs, views, x, rounds)
    untiled = runs.pop(UNTILED)
    baseline = None
    if right is not None and untiled.output is not None:
        floor, taken = noise(untiled.output, right), x.numel() * x.element_size()
        baseline = Baseline(untiled.output, right, floor, untiled.reading, weights, taken)
        if any(in_doubt(_observed(case, run, baseline)) for run in runs.values()):
            drawn = draw_floors(case, views[case.layout], x, right, open_device("sim"))
            baseline = with_draws(baseline, drawn)
    return {name: _figures(case, run, untiled, baseline, weights) for name, run in runs.items()}


def _observed(case: Case, run: Series, baseline: Baseline) -> Observation:
    return Observation(case=case, promise=Promise(), baseline=baseline, output=run.output)


def count(case: Case, contenders: Mapping[str, Profile]) -> dict[str, Figures | str]:
    """Counters from shapes alone, without data: seconds instead of minutes, and the same numbers.

    All contenders see the layout of diffusers; hooks that know another one alone are left out.
    """
    runs = {UNTILED: Series(None, Layout.DIFFUSERS)}
    for name, profile in contenders.items():
        runs[name] = Series(load_hook(profile), Layout.DIFFUSERS)
    with FakeTensorMode():
        seen = view(unseeded(case.facts, case.facts.real), Layout.DIFFUSERS, case.facts)
        x = torch.zeros(case.input_shape)
        weights = _run(case, runs, {Layout.DIFFUSERS: seen}, x)
    untiled = runs.pop(UNTILED)
    return {name: _figures(case, run, untiled, None, weights) for name, run in runs.items()}


def _run(case: Case, runs: Mapping[str, Series], views: Any, x: Tensor) -> int:
    """Let each run once on the simulated accelerator; returns the bytes of the weights."""
    with torch.no_grad(), open_device("sim") as device:
        device.place(
            nn.ModuleList([m for v in views.values() for m in (v.vae, v.encoder, v.decoder)])
        )
        weights = live_bytes(device)
        assert weights is not None
        given = device.put(x)
        for run in runs.values():
            with device.metered() as run.reading:
                ran = _once(run, case, views, given)
            if ran is not None:
                run.output = device.host(ran[0])
            del ran  # it would count for the next one
    return weights


def _time(case: Case, runs: Mapping[str, Series], views: Any, x: Tensor, rounds: int) -> None:
    """Let them run in turns on the CPU itself: tiles have other layouts on the accelerator."""
    with torch.no_grad():
        for _ in range(rounds):
            for run in runs.values():
                if run.failure is None and (ran := _once(run, case, views, x)) is not None:
                    run.seconds.append(ran[1])


def _once(run: Series, case: Case, views: Any, x: Tensor) -> tuple[Tensor, float] | None:
    """What a contender gives, and in how many CPU seconds; ``None`` where it fails."""
    seen = views[run.layout]
    try:
        with contextlib.ExitStack() as stack:
            forward = seen.run
            if run.hook is not None:
                there = replace(case, layout=run.layout)
                forward = stack.enter_context(run.hook.put_on(seen, there, expected=()))
            start = time.process_time()
            result = forward(case.direction, x)
            return result, time.process_time() - start
    except Exception as error:
        if run.hook is None:
            raise
        run.failure = f"{type(error).__name__}: {error}"
        return None


def _figures(
    case: Case, run: Series, untiled: Series, baseline: Baseline | None, weights: int
) -> Figures | str:
    if run.failure is not None:
        return run.failure
    error = grade = None
    if baseline is not None:
        seen = _observed(case, run, baseline)
        error, grade = distance_of(seen).ratio, str(grade_of(seen))
    ours, theirs = run.reading, untiled.reading
    return Figures(
        peak=(ours.peak_bytes - weights) / (theirs.peak_bytes - weights),
        flops=ours.flops / theirs.flops,
        moved=ours.host_to_device,
        time=run.median / untiled.median if run.seconds else None,
        error=error,
        grade=grade,
    )


def parked_bytes(case: Case) -> int:
    """Bytes that the chunks of a clip find in their feature caches, all chunks together.

    This much must return to the device where caches are offloaded to the host. Counted on shapes.
    """
    with torch.no_grad(), FakeTensorMode():
        seen = view(unseeded(case.facts, case.facts.real), case.layout, case.facts)
        coder = seen.decoder
        chunked = seen.conventions(case.direction)[0].chunked
        cache: list[Any] = [None] * chunked.slots(coder)
        found = 0
        for chunk in chunked.cut(seen.coder_input(case.direction, torch.empty(case.latent_shape))):
            found += sum(slot.nbytes for slot in cache if isinstance(slot, Tensor))
            chunked.call(coder, chunk, cache, [0])
    return found
