"""Scenarios of use: what happens to a hook in a program, beside being called.

It is built with other settings before, switched for one direction alone, taken off, asked for tiles
of a pixel, out of memory once, put on a VAE that is not where the program says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.cases import Case, Direction, Scenario
from vae_compat.device import Device, open_device
from vae_compat.device.meter import Convolution
from vae_compat.measure.attempt import Attempt
from vae_compat.measure.bench import Bench
from vae_compat.measure.observation import (
    Baseline,
    Failure,
    LayoutVAE,
    Observation,
    Observed,
    Promise,
    untold,
)
from vae_compat.measure.performed import Called, Memory, UsagePerformed
from vae_compat.measure.placing import placed
from vae_compat.measure.plain import kept
from vae_compat.measure.stage import Stage
from vae_compat.measure.whole import seen
from vae_compat.subject.hook import Hook

TILES = (1, 3, 8)
"""Latent pixels. The first that a hook takes must work; three quarters of eight leave a sliver of
``matrix.TINY_SIZE``, as do three and eight themselves."""


@dataclass(frozen=True)
class Ran:
    """One call of a scenario."""

    what: str
    """``tiles of 1 latent pixel``."""
    seen: Observation
    """What came of it, beside the untiled result of the same call."""

    @property
    def convolutions(self) -> int:
        """How many ran."""
        return sum(self.seen.reading.convolutions.values())


@dataclass(frozen=True)
class Pair:
    """Two results that must be the same to the bit."""

    what: str
    got: Tensor | None
    should: Tensor
    failure: Failure | None = None
    work: tuple[Mapping[Convolution, int], Mapping[Convolution, int]] | None = None
    """Convolutions of both, where these must be the same as well."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UsageObserved(Observed):
    """What came of a scenario of use."""

    ran: tuple[Ran, ...] = ()
    pairs: tuple[Pair, ...] = ()
    memory: Memory | None = None
    held: int = 0
    """Bytes of the result and the input: what may well be on the device all along."""
    empty: str = ""
    """Why the scenario shows nothing; empty where it does."""


# What the runner does ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Play:
    """Makes the calls of one scenario, on a device that is entered."""

    stage: Stage
    view: LayoutVAE
    device: Device
    calls: list[Called] = field(default_factory=list)

    @property
    def case(self) -> Case:
        """The scenario's own, as a case of one call."""
        return replace(self.stage.case, scenario=None)

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, on the plain CPU."""
        return self.stage.models.make_input(case or self.case)

    def attempt(
        self, act: Callable[[Any], Any], *, case: Case | None = None, hook: Any = None
    ) -> Attempt:
        """Put the hook on, act, take it off."""
        return self.stage.attempt(self.view, self.device, act, case=case or self.case, hook=hook)

    def call(self, what: str, *, case: Case | None = None, hook: Any = None) -> Called:
        """One call for its result."""
        case = case or self.case
        x = self.device.put(self.x())
        made = self.attempt(lambda run: run(case.direction, x), case=case, hook=hook)
        return self.noted(what, made, x, tile=case.tile)

    def noted(self, what: str, made: Attempt, x: Tensor, tile: int | None = None) -> Called:
        """Keep what an attempt has left in our hands."""
        called = replace(self.stage.called(made, self.device, x, what), tile=tile)
        self.calls.append(called)
        return called


def perform_usage(stage: Stage) -> UsagePerformed:
    """Play a scenario."""
    assert stage.case.scenario is not None
    usage = USAGES[stage.case.scenario]
    view, device = stage.view, stage.device()
    here = placed(view, device) if usage.placed else nullcontext()
    with torch.no_grad(), device, here:
        return usage.play(Play(stage, view, device))


def _play_settings(play: Play) -> UsagePerformed:
    """The hook's own defaults, other settings, the defaults again."""
    hook = play.stage.hook
    usual = hook.by_default() if isinstance(hook, Hook) else hook
    smaller = replace(play.case, tile=play.case.tile // 2)
    play.call(FRESH, hook=usual)
    play.call("tiles half as large", case=smaller)
    play.call("the defaults again", hook=usual)
    return UsagePerformed(calls=tuple(play.calls))


FRESH = "the hook with its own defaults"


def _play_switches(play: Play) -> UsagePerformed:
    """On for one direction, the other is untiled; off, both are."""
    case, other, hook = play.case, play.case.turned, play.stage.hook
    off: dict[Direction, Any] = {}

    def run_bare() -> None:
        for each in (case, other):
            off[each.direction] = play.view.run(each.direction, play.device.put(play.x(each)))

    def act(run: Any) -> Any:
        return run(other.direction, x) if apart else None

    apart, x = getattr(hook, "apart", False), play.device.put(play.x(other))
    watched = replace(hook, taken_off=run_bare) if isinstance(hook, Hook) else hook
    made = play.attempt(act, hook=watched)
    play.noted(OTHER if apart else "", made, x)
    left = (kept(off.get(each.direction), play.device)[0] for each in (case, other))
    return UsagePerformed(calls=tuple(play.calls), off=tuple(left))


OTHER = "the other direction"


def _play_tiny_tiles(play: Play) -> UsagePerformed:
    """Tiles as small as a hook accepts, and one tile that holds the plane."""
    for tile in (*TILES, play.case.tile):
        case = replace(play.case, tile=tile)
        failure = play.call(f"tiles of {tile} latent pixels", case=case).failure
        if failure is not None and failure.hung:
            break
    return UsagePerformed(calls=tuple(play.calls))


def _play_out_of_memory(play: Play) -> UsagePerformed:
    """Memory runs out once where most of it is taken; then there is enough."""
    case, x = play.case, play.device.put(play.x())

    def call(watch: Watch) -> Attempt:
        def act(run: Any) -> Any:
            with watch:
                return run(case.direction, x)

        return play.attempt(act)

    calm = Watch()
    first = play.noted("an undisturbed call", call(calm), x)
    if first.output is None or not calm.live:
        return UsagePerformed(calls=tuple(play.calls))
    before = torch.cuda.memory_allocated()
    stormy = Watch(at=max(range(len(calm.live)), key=calm.live.__getitem__))
    play.noted("the call in which memory runs out once", call(stormy), x)
    left = torch.cuda.memory_allocated() - before
    play.noted("a call after that", call(Watch()), x)
    memory = Memory(
        first=calm.live[0],
        most=max(calm.live),
        after=min(stormy.live[stormy.at + 1 :], default=None) if stormy.done else None,
        left=left,
    )
    return UsagePerformed(
        calls=tuple(play.calls),
        memory=memory,
        empty="" if stormy.done else "the call did not come so far again",
    )


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the live bytes at each convolution, and refuses one of them its memory."""

    def __init__(self, at: int = -1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at = at
        self.live: list[int] = []

    @property
    def done(self) -> bool:
        """Whether it came so far."""
        return 0 <= self.at < len(self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.convolution:
            self.live.append(torch.cuda.memory_allocated())
            if len(self.live) == self.at + 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Once, to see what happens.")
        return func(*args, **(kwargs or {}))


def _play_on_host(play: Play) -> UsagePerformed:
    """VAE and input on the CPU of a machine whose default is its GPU."""
    case, hook, x = play.case, play.stage.hook, play.x()
    there = replace(hook, fixed={"to_gpu": False}) if isinstance(hook, Hook) else hook
    made = play.attempt(lambda run: run(case.direction, x), hook=there)
    play.noted("the VAE on the CPU beside a GPU", made, x)
    return UsagePerformed(calls=tuple(play.calls))


# What the judge makes of it ----------------------------------------------------------------------


def examine_usage(
    case: Case, promise: Promise, performed: UsagePerformed, bench: Bench
) -> UsageObserved:
    """Hold the calls of a scenario against the untiled ones, and against each other."""
    assert case.scenario is not None
    plain = replace(case, scenario=None)
    results = Results(plain, promise, bench, bench.baseline(plain), performed)
    try:
        found = USAGES[case.scenario].examine(results)
    except _Missing:
        told = "the runner told nothing of some of the calls"
        return UsageObserved(
            case=case,
            promise=promise,
            failure=untold(told),
        )
    failures = (each.failure for each in performed.calls)
    return replace(
        found,
        case=case,
        failure=next((failure for failure in failures if failure and failure.hung), None),
    )


class _Missing(Exception):  # noqa: N818 (a fact about a runner)
    """A call that the runner did not tell of."""


@dataclass(frozen=True)
class Results:
    """The calls of one scenario, and what they are held against."""

    case: Case
    """The scenario's own, as a case of one call."""
    promise: Promise
    bench: Bench
    baseline: Baseline
    performed: UsagePerformed

    def called(self, number: int) -> Called:
        """One of the calls. Raises `_Missing`."""
        if number >= len(self.performed.calls):
            raise _Missing
        return self.performed.calls[number]

    def ran(self, number: int) -> Ran:
        """A call beside the untiled one."""
        called = self.called(number)
        case = self.case if called.tile is None else replace(self.case, tile=called.tile)
        found = seen(called, case, self.promise, self.baseline)
        return Ran(called.what, self.bench.beyond_doubt(found))

    def observed(self, **found: Any) -> UsageObserved:
        """What the checks are given."""
        return UsageObserved(case=self.case, promise=self.promise, **found)

    def untiled(self, case: Case) -> Tensor:
        """The result without the hook: the same to the bit."""
        view, device = self.bench.view(case), open_device(case.device)
        with torch.no_grad(), device, placed(view, device):
            return device.host(view.run(case.direction, device.put(self.bench.make_input(case))))


def _examine_settings(results: Results) -> UsageObserved:
    fresh = results.ran(0)
    if fresh.seen.output is None:
        return results.observed(ran=(fresh,))
    between, again = results.ran(1), results.called(2)
    work = (again.reading.convolutions, fresh.seen.reading.convolutions)
    what = "its own defaults, after tiles half as large"
    pair = Pair(what, again.output, fresh.seen.output, again.failure, work)
    return results.observed(ran=(fresh, between), pairs=(pair,))


def _examine_switches(results: Results) -> UsageObserved:
    case, other, called = results.case, results.case.turned, results.called(0)
    right = {each.direction: results.untiled(each) for each in (case, other)}
    pairs = []
    if called.what == OTHER:
        what = f"{other.direction}, with the hook on to {case.direction} alone"
        pairs.append(Pair(what, called.output, right[other.direction], called.failure))
    if len(results.performed.off) != len(right):
        raise _Missing
    for each, left in zip((case, other), results.performed.off, strict=True):
        what = f"{each.direction}, after the hook was taken off"
        failure = called.failure
        pairs.append(Pair(what, left, right[each.direction], failure))
    return results.observed(pairs=tuple(pairs))


def _examine_each(results: Results) -> UsageObserved:
    return results.observed(
        ran=tuple(map(results.ran, range(max(1, len(results.performed.calls)))))
    )


def _examine_out_of_memory(results: Results) -> UsageObserved:
    first, base = results.ran(0), results.baseline
    if first.seen.output is None or results.performed.memory is None:
        return results.observed(ran=(first,))
    third = results.called(2)
    pair = Pair(third.what, third.output, first.seen.output, third.failure)
    return results.observed(
        ran=(first, results.ran(1)),
        pairs=(pair,),
        memory=results.performed.memory,
        held=base.output.nbytes + base.input_bytes,
        empty=results.performed.empty,
    )


@dataclass(frozen=True)
class Usage:
    """How a scenario is played by the runner, and examined by the judge."""

    play: Callable[[Play], UsagePerformed]
    examine: Callable[[Results], UsageObserved]
    placed: bool = True
    """Whether the VAE is on the device, or left where it is."""


USAGES: Mapping[Scenario, Usage] = MappingProxyType(
    {
        Scenario.SETTINGS: Usage(_play_settings, _examine_settings),
        Scenario.SWITCHES: Usage(_play_switches, _examine_switches),
        Scenario.TINY_TILES: Usage(_play_tiny_tiles, _examine_each),
        Scenario.OUT_OF_MEMORY: Usage(_play_out_of_memory, _examine_out_of_memory),
        Scenario.ON_HOST: Usage(_play_on_host, _examine_each, placed=False),
    }
)
