"""Scenarios of use: what a program does to a hook, apart from calling it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.contracts.promise import Promise
from vae_compat.measure.observation import Observation, untold
from vae_compat.scenarios.performed import Called, Memory, Played
from vae_compat.scenarios.results import Results, ScenarioObserved, Untold
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.single import seen
from vae_compat.scenarios.stage import Player, Stage
from vae_compat.subject.hook import Hook
from vae_compat.subject.settings import Units

if TYPE_CHECKING:
    from vae_compat.measure.attempt import Subject
    from vae_compat.measure.bench import Bench  # the judge's alone


@dataclass(frozen=True)
class Ran:
    """One call of a scenario."""

    what: str
    """``tiles of 1 latent pixel``."""
    seen: Observation
    """Its outcome, with the untiled result of the same call."""

    @property
    def convolutions(self) -> int:
        """How many ran."""
        return sum(self.seen.reading.convolutions.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class UsageObserved(ScenarioObserved):
    """What came of a scenario of use."""

    ran: tuple[Ran, ...] = ()
    memory: Memory | None = None
    passed_by: tuple[str, ...] = ()
    """Replaced forwards that were never called."""
    held: int = 0
    """Bytes of the result and the input, which may be on the device the whole time."""


@dataclass(frozen=True)
class Usage(Scene):
    """How a scenario is played by the runner, and compared by the judge."""

    play: Callable[[Player], None]
    compare: Callable[[Results], UsageObserved]
    on_host: bool = False
    """Whether the VAE is left on the host."""
    prepared: Callable[[LayoutVAE], AbstractContextManager[None]] = lambda _: nullcontext()
    """What is done to the view meanwhile."""
    context: str | None = None
    """In which the hook is called, where not as its profile claims."""
    against: ClassVar[bool] = True

    def perform(self, stage: Stage) -> Played:
        """Make the calls."""
        view = stage.models.views(stage.case)[0]
        playing = stage.play(view, on_host=self.on_host, context=self.context)
        with self.prepared(view), playing as player:
            self.play(player)
        return player.played

    def examine(
        self, case: Case, promise: Promise, performed: Played, bench: Bench
    ) -> UsageObserved:
        """Compare the calls with the untiled ones, and with each other."""
        try:
            found = self.compare(Results(replace(case, scenario=None), promise, bench, performed))
        except Untold:
            failure = untold("the runner told nothing of some of the calls")
            return UsageObserved(case=case, promise=promise, failure=failure)
        failures = (each.failure for each in performed.calls)
        hung = next((failure for failure in failures if failure and failure.hung), None)
        return replace(found, case=case, failure=hung)


def call(
    player: Player,
    what: str,
    *,
    x: Tensor | None = None,
    case: Case | None = None,
    hook: Subject | None = None,
    act: Callable[[Any], Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Called:
    """One call for its result, with the hook put on and taken off.

    ``x`` is another input than that of the case, ``act`` something else than a call with it.
    ``settings`` are given instead of those of the case, where the hook takes them.
    """
    case, hook = case or player.case, hook or player.stage.hook
    if settings and isinstance(hook, Hook):
        hook = replace(hook, fixed={**hook.fixed, **settings})
    given = player.x() if x is None else x
    made = player.attempt(act or (lambda run: run(case.direction, given)), case=case, hook=hook)
    player.calls.append(player.called(made, given, what=what, tile=case.tile))
    return player.calls[-1]


def takes(player: Player, keyword: str) -> bool:
    """Whether the hook takes a keyword of the contract."""
    hook = player.stage.hook
    return not isinstance(hook, Hook) or keyword in hook.accepted_settings


def units_of(player: Player) -> Units:
    """What sizes are counted in."""
    return Units.of(player.stage.promise.kind, player.case, player.view.ratio)


def ran(results: Results, number: int) -> Ran:
    """A call beside the untiled one."""
    called = results.call(number)
    case = results.case if called.tile is None else replace(results.case, tile=called.tile)
    found = seen(called, case, results.promise, results.bench.baseline(results.case))
    return Ran(called.what, results.bench.beyond_doubt(found))


def observed(results: Results, **found: Any) -> UsageObserved:
    """What the checks are given."""
    return UsageObserved(case=results.case, promise=results.promise, **found)


def each_ran(results: Results) -> UsageObserved:
    """All calls, each by itself."""
    count = max(1, len(results.played.calls))
    return observed(results, ran=tuple(ran(results, number) for number in range(count)))
