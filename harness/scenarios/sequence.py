"""Scenarios of several calls, each compared with the same call alone, untiled and in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.device.meter import largest_plane
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.draws import draw_floors
from vae_compat.measure.observation import WHOLE, Baseline, Noise, Observed, untold
from vae_compat.scenarios.calls import Call, prepare
from vae_compat.scenarios.chunks import CLIP_A, CLIP_B, chunked_of, input_of, right_of
from vae_compat.scenarios.performed import Played
from vae_compat.scenarios.rights import Right, Step, all_of
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.stage import Player, Stage, Stopped
from vae_compat.scenarios.tracks import Followed

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone

MIRRORED = "call, mirrored"
"""The name of the call on the mirrored input of the first."""
Rights = tuple[dict[str, Right], int]
"""What the calls of a sequence should give, and the area of the largest untiled plane."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceObserved(Observed):
    """The outcome of a sequence of calls."""

    steps: tuple[Step, ...] = ()
    """The calls up to the end, or to the hook's failure."""
    doing: str = ""
    """The call under way when the hook failed, if it did."""
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    untiled_plane: int = 0
    """The same without the hook."""
    empty: str = ""
    """Why the sequence gives nothing to judge; empty where it does give something."""


@dataclass(frozen=True)
class Sequence(Scene):
    """One sequence: over the whole VAE, over the bare coder chunk by chunk, or in either way."""

    calls: Callable[..., None] | None = None
    """Given a player and the calls of ``cases``."""
    chunks: Callable[[Player], None] | None = None
    """Used where hook and family allow it, because a feature cache can go wrong there."""
    cases: Callable[[Case], tuple[Case, ...]] = lambda case: (case,)
    """The cases that the calls are made for."""
    mirrored: bool = False
    """Whether one more call is made, on the mirrored input of the first."""
    clips: Callable[[Case], Mapping[str, Case]] = lambda case: {CLIP_A: case, CLIP_B: case}
    """The clips that the chunks belong to, by name."""
    mixed: bool = False
    """Whether some chunks run untiled between tiled ones."""

    def applies(self, case: Case, promise: Promise) -> bool:
        """Whether there is a way to play it."""
        return self.calls is not None or self.by_chunks(case, promise)

    def by_chunks(self, case: Case, promise: Promise) -> bool:
        """Whether it is played on the bare coder: only hooks of kind ``forward`` meet that."""
        cached = case.facts.feature_cache
        return self.chunks is not None and promise.kind == "forward" and cached

    def perform(self, stage: Stage) -> Played:
        """Make the calls, until one fails."""
        with stage.play() as player:
            try:
                if self.by_chunks(player.case, stage.promise):
                    assert self.chunks is not None
                    self.chunks(player)
                else:
                    assert self.calls is not None
                    calls = [*self._inputs(player.case, stage.models.make_input)]
                    for call in calls:
                        prepare(player, call)
                    self.calls(player, *calls)
            except Stopped:
                pass  # the player knows
        return player.played

    def _inputs(self, case: Case, make_input: Callable[[Case], Tensor]) -> Iterator[Call]:
        """The calls over the whole VAE."""
        cases = self.cases(case)
        for number, each in enumerate(cases):
            yield Call(each, make_input(each), f"call {number}")
        if self.mirrored:
            yield Call(cases[0], make_input(cases[0]).flip(-1), MIRRORED)

    def examine(
        self, case: Case, promise: Promise, performed: Played, bench: Bench
    ) -> SequenceObserved:
        """Compare every call that returned with what it should have given."""
        plain = replace(case, scenario=None)
        chunks, exact = self.by_chunks(case, promise), promise.grade == "exact"
        rights, plane = (
            self._of_chunks(plain, exact, bench) if chunks else self._of_calls(plain, bench)
        )
        if not exact and not (chunks and self.mixed):
            alone = {called.right: called.output for called in performed.alone}
            rights = {name: replace(right, alone=alone.get(name)) for name, right in rights.items()}
        failure, steps = performed.failure, []
        for called in performed.calls:
            right = rights.get(called.right)
            if right is None:
                told = f"the runner told of {called.right!r}, which was not asked for"
                failure = failure or untold(told)
                continue
            if called.bare:
                right = replace(right, alone=None)
            steps.append(right.step(called.what, called.returned, called.output))
        return SequenceObserved(
            case=case,
            promise=promise,
            failure=failure,
            steps=tuple(steps),
            doing=performed.doing,
            plane=performed.plane,
            untiled_plane=plane,
            empty=performed.empty,
        )

    def _of_calls(self, case: Case, bench: Bench) -> Rights:
        rights, plane = {}, 0
        further: Callable[[], Noise | None]
        for call in self._inputs(case, bench.make_input):
            if call.right == MIRRORED:
                base = _measured(call, bench)
                further = cache(partial(_drawn, call, base, bench))
            else:
                base = bench.baseline(call.case)
                further = partial(_raised, call, bench)
            rights[call.right] = Right(base.output, base.truth, further=further)
            plane = max(plane, math.prod(largest_plane(base.reading.convolutions)))
        return rights, plane

    def _of_chunks(self, case: Case, exact: bool, bench: Bench) -> Rights:
        rights, plane = {}, 0
        for name, each in self.clips(case).items():
            view, x = bench.view(each), input_of(name, bench.make_input(each))
            chunked = chunked_of(view, each)
            make = partial(Followed, each, view, bench.twin(each), chunked, x)
            clip = bench.recent(each, (name, 0, chunked.split), make)
            plane = max(plane, clip.track.plane)
            for untiled, truth in zip(clip.track.untiled, clip.track.truth, strict=True):
                rights[right_of(name, truth.number)] = Right(
                    all_of(untiled.parts),
                    all_of(truth.parts),
                    mixed=self.mixed and not exact,
                    further=partial(clip.further, truth.number),
                )
        return rights, plane


def _measured(call: Call, bench: Bench) -> Baseline:
    """The baseline of an input that is not that of its case."""
    case, x = call.case, call.x
    truth = measure_truth(case, bench.twin(case), x, open_device(case.device))
    return measure_baseline(case, bench.view(case), truth, x, open_device(case.device))


def _drawn(call: Call, base: Baseline, bench: Bench) -> Noise | None:
    view, device = bench.view(call.case), open_device(call.case.device)
    return draw_floors(call.case, view, call.x, base.truth, device).get(WHOLE)


def _raised(call: Call, bench: Bench) -> Noise | None:
    return bench.raised(call.case).further.get(WHOLE)
