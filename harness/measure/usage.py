"""Scenarios of use: what happens to a hook in a program, beside being called.

It is built with other settings before, switched for one direction alone, taken off, asked for tiles
of a pixel, out of memory once, put on a VAE that is not where the program says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from vae_compat.cases import Case, Direction, Scenario
from vae_compat.device.meter import Convolution
from vae_compat.measure.draws import beyond_doubt
from vae_compat.measure.observation import Baseline, Failure, LayoutVAE, Observation, Observed
from vae_compat.measure.placing import placed
from vae_compat.measure.run import Trial, kept
from vae_compat.measure.stage import Stage
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


@dataclass(frozen=True)
class Memory:
    """Bytes that were live on the device around a failure for want of memory."""

    first: int
    """At the first convolution of an undisturbed call."""
    most: int
    """At the convolution that failed."""
    after: int | None
    """The least at any convolution after it; ``None`` where there was none."""
    left: int
    """More than before the call once it was over."""
    held: int
    """Of the result and the input: what may well be on the device all along."""


@dataclass(frozen=True, kw_only=True)
class UsageObserved(Observed):
    """What came of a scenario of use."""

    ran: tuple[Ran, ...] = ()
    pairs: tuple[Pair, ...] = ()
    memory: Memory | None = None
    empty: str = ""
    """Why the scenario shows nothing; empty where it does."""


@dataclass(frozen=True)
class Play:
    """Makes the calls of one scenario."""

    stage: Stage
    view: LayoutVAE
    baseline: Baseline
    broken: list[str] = field(default_factory=list)
    """What the hook has left in the VAE beyond repair."""

    @property
    def case(self) -> Case:
        """The scenario's own, as a case of one call."""
        return replace(self.stage.case, scenario=None)

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, on the plain CPU."""
        return self.stage.bench.make_input(case or self.case)

    def attempt(
        self, act: Callable[[Any], Any], *, case: Case | None = None, hook: Any = None
    ) -> Trial:
        """Put the hook on, act, take it off."""
        trial = self.stage.attempt(
            self.view, act, case=case or self.case, hook=hook, baseline=self.baseline
        )
        self.broken.extend(trial.beyond_repair)
        return trial

    def call(self, what: str, *, case: Case | None = None, hook: Any = None) -> Ran:
        """One call for its result."""
        case = case or self.case
        x = self.stage.device.put(self.x())
        trial = self.attempt(lambda run: run(case.direction, x), case=case, hook=hook)
        return self.seen(what, case, trial, x)

    def seen(self, what: str, case: Case, trial: Trial, x: Tensor) -> Ran:
        """What a trial has left in our hands."""
        output, where = kept(trial, self.stage.device)
        trial.result = None
        return Ran(
            what,
            Observation(
                case=case,
                promise=self.stage.promise,
                baseline=self.baseline,
                output=output,
                output_device=where,
                input_device=x.device,
                failure=trial.failure,
                reading=trial.reading,
            ),
        )

    def untiled(self, case: Case) -> Tensor:
        """The result without the hook, made here and now: the same to the bit."""
        device = self.stage.device
        return device.host(self.view.run(case.direction, device.put(self.x(case))))

    def observed(self, **found: Any) -> UsageObserved:
        """What the checks are given. A hang is the failure of the whole case: it is counted."""
        seen = [each.seen.failure for each in found.get("ran", ())]
        seen += [each.failure for each in found.get("pairs", ())]
        return UsageObserved(
            case=self.stage.case,
            promise=self.stage.promise,
            failure=next((failure for failure in seen if failure and failure.hung), None),
            beyond_repair=tuple(self.broken),
            **found,
        )


def settings(play: Play) -> UsageObserved:
    """The hook's own defaults, other settings, the defaults again."""
    hook = play.stage.hook
    with hook.kept(play.case) if isinstance(hook, Hook) else nullcontext(hook) as hook:
        usual = hook.by_default() if isinstance(hook, Hook) else hook
        smaller = replace(play.case, tile=play.case.tile // 2)
        fresh = play.call("the hook with its own defaults", hook=usual)
        between = play.call("tiles half as large", case=smaller, hook=hook)
        again = play.call("the defaults again", hook=usual)
    if fresh.seen.output is None:
        return play.observed(ran=(fresh,))
    work = (again.seen.reading.convolutions, fresh.seen.reading.convolutions)
    what = "its own defaults, after tiles half as large"
    pair = Pair(what, again.seen.output, fresh.seen.output, again.seen.failure, work)
    return play.observed(ran=(fresh, between), pairs=(pair,))


def switches(play: Play) -> UsageObserved:
    """On for one direction, the other is untiled; off, both are."""
    case, other = play.case, play.case.turned
    right = {each.direction: play.untiled(each) for each in (case, other)}
    device, hook, pairs = play.stage.device, play.stage.hook, []
    off: dict[Direction, Tensor] = {}

    def run_bare() -> None:
        for each in (case, other):
            off[each.direction] = play.view.run(each.direction, device.put(play.x(each)))

    def act(run: Any) -> Any:
        return run(other.direction, device.put(play.x(other))) if apart else None

    apart = getattr(hook, "apart", False)
    watched = replace(hook, taken_off=run_bare) if isinstance(hook, Hook) else hook
    trial = play.attempt(act, hook=watched)
    if apart:
        what = f"{other.direction}, with the hook on to {case.direction} alone"
        output, _ = kept(trial, device)
        pairs.append(Pair(what, output, right[other.direction], trial.failure))
    for each in (case, other):
        output, _ = kept(Trial(result=off.get(each.direction)), device)
        what = f"{each.direction}, after the hook was taken off"
        pairs.append(Pair(what, output, right[each.direction], trial.failure))
    return play.observed(pairs=tuple(pairs))


def tiny_tiles(play: Play) -> UsageObserved:
    """Tiles as small as a hook accepts, and one tile that holds the plane."""
    ran: list[Ran] = []
    for tile in (*TILES, play.case.tile):
        case = replace(play.case, tile=tile)
        ran.append(play.call(f"tiles of {tile} latent pixels", case=case))
        failure = ran[-1].seen.failure
        if failure is not None and failure.hung:
            break
    return play.observed(ran=tuple(ran))


def out_of_memory(play: Play) -> UsageObserved:
    """Memory runs out once where most of it is taken; then there is enough."""
    case, device = play.case, play.stage.device
    x = device.put(play.x())

    def call(watch: Watch) -> Trial:
        def act(run: Any) -> Any:
            with watch:
                return run(case.direction, x)

        return play.attempt(act)

    calm = Watch()
    first = play.seen("an undisturbed call", case, call(calm), x)
    if first.seen.output is None or not calm.live:
        return play.observed(ran=(first,))
    before = torch.cuda.memory_allocated()
    stormy = Watch(at=max(range(len(calm.live)), key=calm.live.__getitem__))
    second = play.seen("the call in which memory runs out once", case, call(stormy), x)
    left = torch.cuda.memory_allocated() - before
    third = play.seen("a call after that", case, call(Watch()), x)
    base = play.baseline
    memory = Memory(
        first=calm.live[0],
        most=max(calm.live),
        after=min(stormy.live[stormy.at + 1 :], default=None) if stormy.done else None,
        left=left,
        held=base.output.nbytes + base.input_bytes,
    )
    pair = Pair(third.what, third.seen.output, first.seen.output, third.seen.failure)
    return play.observed(
        ran=(first, second),
        pairs=(pair,),
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


def on_host(play: Play) -> UsageObserved:
    """VAE and input on the CPU of a machine whose default is its GPU."""
    case, hook, x = play.case, play.stage.hook, play.x()
    there = replace(hook, fixed={"to_gpu": False}) if isinstance(hook, Hook) else hook
    trial = play.attempt(lambda run: run(case.direction, x), hook=there)
    return play.observed(ran=(play.seen("the VAE on the CPU beside a GPU", case, trial, x),))


def observing(
    play: Callable[[Play], UsageObserved], *, place: bool = True
) -> Callable[[Stage], Observed]:
    """How a scenario is run, with the VAE on the device or left where it is."""

    def observe(stage: Stage) -> Observed:
        bench, case = stage.bench, replace(stage.case, scenario=None)
        view = bench.view(case)
        here = placed(view, stage.device) if place else nullcontext()
        baseline = bench.baseline(case)
        with torch.no_grad(), stage.device, here:
            found = play(Play(stage, view, baseline))
        raised = partial(bench.raised, case)
        ran = tuple(replace(each, seen=beyond_doubt(each.seen, raised)) for each in found.ran)
        return replace(found, ran=ran)

    return observe


USAGES: Mapping[Scenario, Callable[[Stage], Observed]] = MappingProxyType(
    {
        Scenario.SETTINGS: observing(settings),
        Scenario.SWITCHES: observing(switches),
        Scenario.TINY_TILES: observing(tiny_tiles),
        Scenario.OUT_OF_MEMORY: observing(out_of_memory),
        Scenario.ON_HOST: observing(on_host, place=False),
    }
)
"""How each is observed."""
