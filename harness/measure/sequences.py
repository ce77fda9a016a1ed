"""Scenarios of several calls: what a hook carries over from one call to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, cycle, repeat
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.cases import Case, Scenario
from vae_compat.device import open_device
from vae_compat.device.meter import largest_plane
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.bench import Bench
from vae_compat.measure.draws import draw_floors
from vae_compat.measure.observation import (
    WHOLE,
    Baseline,
    Noise,
    Observed,
    Promise,
    untold,
)
from vae_compat.measure.performed import SequencePerformed, Taken
from vae_compat.measure.placing import placed
from vae_compat.measure.player import (
    CLIP_A,
    CLIP_B,
    Call,
    Clip,
    Player,
    Stopped,
    chunked_of,
    input_of,
    right_of,
)
from vae_compat.measure.rights import Right, Step, all_of
from vae_compat.measure.stage import Stage
from vae_compat.measure.tracks import Further, Track, draw_further, follow


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceObserved(Observed):
    """What came of a sequence of calls."""

    steps: tuple[Step, ...] = ()
    """As far as the hook came."""
    doing: str = ""
    """The call under way when the hook failed, if it did."""
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    untiled_plane: int = 0
    """The same without the hook."""
    empty: str = ""
    """Why the sequence shows nothing; empty where it does."""


@dataclass(frozen=True)
class Sequence:
    """One sequence: over the whole VAE, over the bare coder chunk by chunk, or in either way."""

    calls: Callable[..., None] | None = None
    """Given a player and the calls of ``cases``."""
    chunks: Callable[[Player], None] | None = None
    """Taken where hook and family allow it: there is a cache to get wrong."""
    cases: Callable[[Case], tuple[Case, ...]] = lambda case: (case,)
    """Those that the calls are made for."""
    mirrored: bool = False
    """Whether one more call is made, on the mirrored input of the first."""
    clips: Callable[[Case], Mapping[str, Case]] = lambda case: {CLIP_A: case, CLIP_B: case}
    """Clips that the chunks are of, by name."""
    mixed: bool = False
    """Whether some chunks run untiled between tiled ones."""

    def applies(self, case: Case, promise: Promise) -> bool:
        """Whether there is a way to play it."""
        return self.calls is not None or self.by_chunks(case, promise)

    def by_chunks(self, case: Case, promise: Promise) -> bool:
        """Whether it is played on the bare coder: only hooks of kind ``forward`` meet that."""
        cached = case.facts.feature_cache
        return self.chunks is not None and promise.kind == "forward" and cached


# What the runner does ----------------------------------------------------------------------------


def perform_sequence(stage: Stage) -> SequencePerformed:
    """Play the sequence of a case."""
    case = stage.case
    sequence = _sequence_of(case)
    view, device = stage.view, stage.device()
    player = Player(stage, view, device)
    with torch.no_grad(), device, placed(view, device):
        try:
            if sequence.by_chunks(case, stage.promise):
                assert sequence.chunks is not None
                sequence.chunks(player)
            else:
                assert sequence.calls is not None
                calls = [Call(*each) for each in inputs(sequence, case, stage.models.make_input)]
                for call in calls:
                    player.prepare(call)
                sequence.calls(player, *calls)
        except Stopped:
            pass
    return SequencePerformed(
        taken=tuple(player.taken),
        alone=tuple(player.alone),
        doing=player.doing,
        failure=player.failure,
        plane=player.plane,
        empty=player.empty,
    )


def _sequence_of(case: Case) -> Sequence:
    assert case.scenario is not None
    return SEQUENCES[case.scenario]


def inputs(
    sequence: Sequence, case: Case, make_input: Callable[[Case], Tensor]
) -> Iterator[tuple[Case, Tensor, str]]:
    """Case, input and name of each call of a sequence over the whole VAE."""
    cases = [replace(each, scenario=None) for each in sequence.cases(case)]
    for number, each in enumerate(cases):
        yield each, make_input(each), f"call {number}"
    if sequence.mirrored:
        yield cases[0], make_input(cases[0]).flip(-1), MIRRORED


MIRRORED = "call, mirrored"
"""The name of the call on the mirrored input of the first."""

# What the judge makes of it ----------------------------------------------------------------------


def examine_sequence(
    case: Case, promise: Promise, performed: SequencePerformed, bench: Bench
) -> SequenceObserved:
    """Hold every call that came back against what it should have given."""
    sequence = _sequence_of(case)
    chunks = sequence.by_chunks(case, promise)
    exact = promise.grade == "exact"
    rights, plane = (_of_chunks if chunks else _of_calls)(sequence, case, exact, bench)
    if not exact and not (chunks and sequence.mixed):
        rights = _with_alone(rights, performed.alone)
    failure, steps = performed.failure, []
    for taken in performed.taken:
        right = rights.get(taken.right)
        if right is None:
            told = f"the runner told of {taken.right!r}, which was not asked for"
            failure = failure or untold(told)
            continue
        if taken.bare:
            right = replace(right, alone=None)
        steps.append(right.step(taken.name, taken.returned, taken.output))
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


def _with_alone(rights: Mapping[str, Right], alone: tuple[Taken, ...]) -> Mapping[str, Right]:
    by_itself = {taken.right: taken.output for taken in alone}
    return {name: replace(right, alone=by_itself.get(name)) for name, right in rights.items()}


def _of_calls(
    sequence: Sequence, case: Case, exact: bool, bench: Bench
) -> tuple[Mapping[str, Right], int]:
    """What the calls of a sequence should give, and the area of the largest untiled plane."""
    del exact
    rights, plane = {}, 0
    further: Callable[[], Noise | None]
    for each, x, name in inputs(sequence, case, bench.make_input):
        if name == MIRRORED:
            truth = measure_truth(each, bench.twin(each), x, open_device(each.device))
            base = measure_baseline(each, bench.view(each), truth, x, open_device(each.device))
            further = cache(partial(_drawn, bench, each, x, truth))
        else:
            base = bench.baseline(each)
            further = partial(_further, bench, each)
        rights[name] = Right(base.output, base.truth, further=further)
        plane = max(plane, _area(base))
    return rights, plane


def _area(base: Baseline) -> int:
    return math.prod(largest_plane(base.reading.convolutions))


def _further(bench: Bench, case: Case) -> Noise | None:
    return bench.raised(case).further.get(WHOLE)


def _drawn(bench: Bench, case: Case, x: Tensor, truth: Tensor) -> Noise | None:
    return draw_floors(case, bench.view(case), x, truth, open_device(case.device)).get(WHOLE)


def _of_chunks(
    sequence: Sequence, case: Case, exact: bool, bench: Bench
) -> tuple[Mapping[str, Right], int]:
    """What the chunks of a sequence should give, and the area of the largest untiled plane."""
    rights, plane = {}, 0
    for name, each in sequence.clips(case).items():
        view, twin = bench.view(each), bench.twin(each)
        chunked, x = chunked_of(view, each), input_of(name, bench.make_input(each))
        device = open_device(each.device)
        with torch.no_grad(), device, placed(view, device), device.metered() as reading:
            track = follow(view, twin, each.direction, chunked, x, device)
        plane = max(plane, math.prod(largest_plane(reading.convolutions)))
        further = cache(partial(_further_of_clip, bench, each, x, track))
        for untiled, truth in zip(track.untiled, track.truth, strict=True):
            rights[right_of(name, truth.number)] = Right(
                all_of(untiled.parts),
                all_of(truth.parts),
                mixed=sequence.mixed and not exact,
                further=partial(_of_chunk, further, truth.number),
            )
    return rights, plane


def _further_of_clip(bench: Bench, case: Case, x: Tensor, track: Track) -> Further:
    view = bench.view(case)
    with open_device(case.device) as device:
        return draw_further(track, view, case.direction, chunked_of(view, case), x, device)


def _of_chunk(further: Callable[[], Further], number: int) -> Noise | None:
    return further().chunks.get((number, None))


# Whole VAEs --------------------------------------------------------------------------------------


def _twice(player: Player, call: Call) -> None:
    def act(run: Any) -> None:
        player.call("call 1", run, call)
        player.call("call 2, the same again", run, call)

    player.hooked(act)


def _sizes(player: Player, call: Call, other: Call) -> None:
    size = f"{other.case.height}x{other.case.width}"

    def act(run: Any) -> None:
        player.call("call 1", run, call)
        player.call(f"call 2, of {size} latent pixels", run, other)
        player.call("call 3, of the first size again", run, call)

    player.hooked(act)


def _off_and_on(player: Player, call: Call) -> None:
    player.hooked(lambda run: player.call("call 1", run, call))
    player.bare(lambda run: player.call("call 2, with the hook taken off", run, call, bare=True))
    player.hooked(lambda run: player.call("call 3, with the hook on again", run, call))


def _interrupted(player: Player, call: Call, other: Call) -> None:
    def act(run: Any) -> None:
        with Interrupting() as counted:
            player.call("call 1", run, call)
        with Interrupting(counted.count // 2) as interrupting:
            try:
                player.call("call 2, interrupted in the middle", run, call)
            except Exception:
                if not interrupting.done:
                    raise
        if not interrupting.done:
            player.empty = "call 2 ended before it could be interrupted"
        player.call("call 3, another input after the interruption", run, other)

    player.hooked(act)


def _both_calls(player: Player, one: Call, other: Call) -> None:
    def act(run: Any) -> None:
        for number, call in enumerate((one, other, one, other), 1):
            player.call(f"call {number}, {call.case.direction}", run, call)

    _with_both(player, act, other.case)


# Bare coders, chunk by chunk ---------------------------------------------------------------------


def _streams(player: Player) -> None:
    one, other = player.clip(CLIP_A), player.clip(CLIP_B)

    def act(_: Any) -> None:
        ours, theirs = player.stream(one), player.stream(other)
        while ours.left:
            player.send(one, ours)
            player.send(other, theirs)

    player.hooked(act)


def _cleared(player: Player) -> None:
    one, other = player.clip(CLIP_A), player.clip(CLIP_B)

    def act(_: Any) -> None:
        begun, fresh = player.stream(one), player.stream(other)
        while len(begun.left) > 1:
            player.send(one, begun)
        begun.cache[:] = [None] * len(begun.cache)
        fresh.cache = begun.cache
        while fresh.left:
            player.send(other, fresh, ", in the cleared list")

    player.hooked(act)


def _turns(player: Player) -> None:
    clip = player.clip(CLIP_A, mixed=True)
    _alternate(player, clip, cycle((True, False)))
    _alternate(player, clip, cycle((False, True)))


def _off_midway(player: Player) -> None:
    _alternate(player, player.clip(CLIP_A, mixed=True), chain((True, True), repeat(False)))


def _alternate(player: Player, clip: Clip, tiled: Iterator[bool]) -> None:
    """Send a clip, the hook on for some chunks: put on and taken off anew each time."""
    stream = player.stream(clip)
    before = ""
    while stream.left:
        on = next(tiled)
        word = "tiled" if on else "untiled"
        send = partial(player.send, clip, stream, f", {word}{before}")
        if on:
            player.hooked(_ignoring(send))
        else:
            player.bare(_ignoring(send))
        before = f", after a {word} one"


def _ignoring(send: Callable[[], None]) -> Callable[[Any], None]:
    return lambda _: send()


def _both_chunks(player: Player) -> None:
    other = player.stage.case.turned
    clips = player.clip(CLIP_A), player.clip(CLIP_B, other)

    def act(_: Any) -> None:
        streams = [player.stream(clip) for clip in clips]
        while streams[0].left:
            for clip, stream in zip(clips, streams, strict=True):
                player.send(clip, stream, f", {clip.case.direction}")

    _with_both(player, act, other)


def _with_both(player: Player, act: Callable[[Any], Any], other: Case) -> None:
    """``act`` with both directions hooked: some hooks are put on for each."""
    if getattr(player.stage.hook, "apart", player.stage.promise.kind == "forward"):
        player.hooked(lambda _: player.hooked(act, other))
    else:
        player.hooked(act)


def _directions(case: Case) -> tuple[Case, ...]:
    """The case, and that of the other direction."""
    return case, case.turned


def _one_clip(case: Case) -> Mapping[str, Case]:
    return {CLIP_A: case}


def _clip_a_way(case: Case) -> Mapping[str, Case]:
    """A clip in the direction of the case, and one in the other."""
    return {CLIP_A: case, CLIP_B: case.turned}


def _two_sizes(case: Case) -> tuple[Case, ...]:
    """The case, and one of another size and shape that also has to be tiled."""
    return case, replace(case, height=case.width + 2, width=case.height + 1)


class Interrupting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and raises `Interruption` in the place of one of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at = at
        self.count = 0

    @property
    def done(self) -> bool:
        """Whether it came so far."""
        return self.at is not None and 0 < self.at <= self.count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        if self.count == self.at:
            raise Interruption("the work was interrupted")
        return func(*args, **(kwargs or {}))


class Interruption(RuntimeError):  # noqa: N818 (no error: somebody wants it to stop)
    """What a hook meets in the middle of its work, as when a user stops a job."""


SEQUENCES: Mapping[Scenario, Sequence] = MappingProxyType(
    {
        Scenario.TWICE: Sequence(_twice),
        Scenario.SIZES: Sequence(_sizes, cases=_two_sizes),
        Scenario.STREAMS: Sequence(chunks=_streams),
        Scenario.CLEARED: Sequence(chunks=_cleared),
        Scenario.TURNS: Sequence(chunks=_turns, clips=_one_clip, mixed=True),
        Scenario.TAKEN_OFF: Sequence(_off_and_on, _off_midway, clips=_one_clip, mixed=True),
        Scenario.INTERRUPTED: Sequence(_interrupted, mirrored=True),
        Scenario.BOTH_WAYS: Sequence(_both_calls, _both_chunks, _directions, clips=_clip_a_way),
    }
)
"""How each sequence is played."""
