"""Scenarios that need no baseline: several results of the hook that must equal each other.

There is no noise floor without a truth, so the hook runs on the float64 twin of the VAE where it
can: there, results that differ only by rounding agree to 1e-13, and a real difference stands out.
Each run has a fresh device and a fresh hook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.measure.distance import WORST_RATIO
from vae_compat.measure.observation import untold
from vae_compat.scenarios.comparison import Comparison, compared
from vae_compat.scenarios.performed import Called, Played, taken_by
from vae_compat.scenarios.results import Results, ScenarioObserved, Untold
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.stage import Stage, Stopped

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench

SHARP = 1e-9
"""Largest difference, over the rms of the result, that rounding can cause in float64: 1e-14 to
1e-12 were measured."""
ROUNDING = 64.0
"""Units of rounding (eps) of a narrower dtype that two exact results may differ by, over the rms of
the result: an exact one is within two noise floors of the truth, and a floor is 2 to 10 units."""
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
"""In which a hook may compute."""

Compared = tuple[list[Comparison], str]
"""Comparisons, and why they show nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Related(ScenarioObserved):
    """The outcome of runs that should give equal results."""

    dtype: str = ""
    """The narrowest in which the hook computed."""
    taken: tuple[int, ...] = ()
    """The peak of each run on the device over what was live before it, in bytes; empty where that
    was not measured."""
    before: int = 0
    """The most that was live on the device before a run, in bytes: the weights and the input."""
    given: int = 0
    """Bytes of the input and the result of the first run."""


@dataclass
class Runs:
    """Makes the runs of one scenario in one dtype."""

    stage: Stage
    dtype: torch.dtype
    narrowest: torch.dtype = torch.float64
    calls: list[Called] = field(default_factory=list)
    empty: str = ""
    """Why they show nothing; empty where they do."""

    @property
    def case(self) -> Case:
        """The scenario's own, as a case of one call."""
        return replace(self.stage.case, scenario=None)

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, in the dtype of the runs."""
        return self.stage.models.make_input(case or self.case).to(self.dtype)

    def run(self, *xs: Tensor, case: Case | None = None, capacity: int | None = None) -> Called:
        """Put the hook on, call it with each input, and return the outcome of the last call.

        Raises `Stopped`.
        """
        case, models = case or self.case, self.stage.models
        view = (models.twins if self.dtype is torch.float64 else models.views)(case)[0]
        with self.stage.play(view, capacity=capacity) as player:

            def act(run: Any) -> list[Any]:
                with _Narrowest() as mode:
                    results = [run(case.direction, player.device.put(x)) for x in xs]
                self.narrowest = min(self.narrowest, mode.dtype, key=lambda dtype: dtype.itemsize)
                return results

            made = player.hooked(act, replace(case, dtype=_named(self.dtype)))
            for result in made.result:
                called = player.kept(result, reading=made.reading, dtype=_named(self.narrowest))
                failure = called.missing(f"returned {called.returned} where a tensor belongs")
                if failure is not None:
                    raise Stopped(failure)
                self.calls.append(called)
        return self.calls[-1]


class _Narrowest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the narrowest floating dtype that operations return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor) and part.is_floating_point():
                self.dtype = min(self.dtype, part.dtype, key=lambda dtype: dtype.itemsize)
        return out


@dataclass(frozen=True)
class Relation(Scene):
    """How a relation is played by the runner, and compared by the judge."""

    play: Callable[[Runs], None]
    compare: Callable[[Results], Compared]
    wide: bool = True
    """Whether it runs in float64 where the hook can."""
    others: Callable[[Case], tuple[Case, ...]] = lambda _: ()
    """Cases of other VAEs that it is played on as well."""

    def needs(self, case: Case) -> tuple[Case, ...]:
        """Cases whose VAEs the runner needs."""
        return (case, *self.others(case))

    def perform(self, stage: Stage) -> Played:
        """Make the runs: in float64 where that is wanted, else in the dtype of the case.

        A hook need not support float64: if it refuses, the runs are made in the dtype of the case.
        """
        own: torch.dtype = getattr(torch, stage.case.dtype)
        played = Played()
        for dtype in (torch.float64, own) if self.wide else (own,):
            runs = Runs(stage, dtype)
            try:
                self.play(runs)
                return Played(calls=tuple(runs.calls), dtype=_named(dtype), empty=runs.empty)
            except Stopped as stopped:
                played = Played(failure=stopped.failure)
                if stopped.failure.hung:
                    break
        return played

    def examine(self, case: Case, promise: Promise, performed: Played, bench: Bench) -> Related:
        """Compare the runs with each other."""
        if performed.failure is not None:
            return Related(case=case, promise=promise, failure=performed.failure)
        results = Results(replace(case, scenario=None), promise, bench, performed)
        try:
            comparisons, empty = self.compare(results)
        except Untold:
            failure = untold("the runner told nothing of some of the runs")
            return Related(case=case, promise=promise, failure=failure)
        return Related(
            case=case,
            promise=promise,
            comparisons=tuple(comparisons),
            dtype=performed.calls[-1].dtype,
            taken=taken_by(performed.calls),
            before=max((call.reading.live_before or 0 for call in performed.calls), default=0),
            given=_given(results),
            empty=performed.empty or empty,
        )


def _given(results: Results) -> int:
    return sum(each.numel() * each.element_size() for each in (results.x(), results.output(0)))


def rounding(results: Results, number: int) -> float:
    """The difference that rounding may cause, in the narrowest dtype seen up to a call."""
    dtype = results.call(number).dtype
    if dtype not in FLOATS:
        raise Untold
    return SHARP if dtype == "float64" else ROUNDING * torch.finfo(getattr(torch, dtype)).eps


def pair(results: Results, what: str, first: int, second: int) -> Comparison:
    """Compare two of the calls, which may differ by nothing."""
    return compared(what, results.output(first), results.output(second), 0.0)


def agreeing(results: Results, what: str, first: Tensor, second: Tensor, last: int) -> Comparison:
    """Compare two results, which may differ by rounding; ``last`` is the latest call behind them.

    Where the hook has computed in the dtype of the case, noise of that VAE is rounding as well.
    """
    found = compared(what, first, second, rounding(results, last))
    if found.holds or results.call(last).dtype != results.case.dtype:
        return found
    base = results.bench.baseline(results.case)
    noise = WORST_RATIO * base.floor.worst / float(base.truth.square().mean().sqrt())
    return replace(found, bound=max(found.bound, noise))


def pair_agreeing(results: Results, what: str, first: int, second: int) -> Comparison:
    """Compare two of the calls, which may differ by rounding."""
    return agreeing(results, what, results.output(first), results.output(second), second)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
