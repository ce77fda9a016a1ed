"""Scenario clip: a clip through the whole VAE, and through the bare coder chunk by chunk."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from vae_compat.cases import Case
from vae_compat.device import Device, open_device
from vae_compat.measure.bench import Bench
from vae_compat.measure.distance import Distance, changes, distance
from vae_compat.measure.draws import is_doubtful
from vae_compat.measure.observation import (
    Baseline,
    Chunked,
    Convention,
    Failure,
    LayoutVAE,
    Noise,
    Observation,
    Observed,
    Promise,
    coder_of,
    untold,
)
from vae_compat.measure.performed import ClipPerformed, Sent, WayPerformed
from vae_compat.measure.placing import placed
from vae_compat.measure.stage import Stage
from vae_compat.measure.streams import Stream
from vae_compat.measure.tracks import ChunkSeen, SlotSeen, Track, draw_further, follow, joined
from vae_compat.measure.whole import perform_call, seen

__all__ = ["ChunkSeen", "ClipObserved", "SlotSeen", "Way", "examine_clip", "perform_clip"]

SHORT = 2
"""Latent frames up to which a clip is sent in every convention. A longer one is sent once for each
way of cutting it: how arguments are named makes no difference to a chunk far along."""
MEDIUM = 9
"""Latent frames up to which it is sent through every variant of the layout."""


@dataclass(frozen=True)
class Way:
    """One clip through the bare coder in one convention."""

    convention: str
    own: bool
    """Whether a VAE of the layout calls its coder so: the other ways name arguments differently."""
    chunks: tuple[ChunkSeen, ...]
    """As far as the hook came."""
    baseline: Baseline
    """Untiled and float64 output of the bare coder, ``B C T H W``."""
    output: Tensor | None
    """The hook's; ``None`` where it raised or returned no tensors."""
    borders: tuple[int, ...]
    """Frames of the output with which a chunk begins, but for the first."""
    distance: Distance | None = None
    """Of the output, where it can be compared."""
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipObserved(Observed):
    """What a clip showed. Hooks of kind ``forward`` alone meet the bare coder."""

    whole: Observation
    """The whole ``vae.encode`` or ``vae.decode``."""
    ways: tuple[Way, ...] = ()

    @property
    def shown(self) -> tuple[Way, ...]:
        """The ways that there is something to see of: a call that is refused shows no caches."""
        return tuple(way for way in self.ways if way.own or way.failure is None)


# What the runner does ------------------------------------------------------------------------


def perform_clip(stage: Stage) -> ClipPerformed:
    """Play a clip in every way of the field."""
    whole = perform_call(stage)
    hung = whole.failure is not None and whole.failure.hung
    ways = () if hung or stage.promise.kind != "forward" else tuple(_perform_ways(stage))
    return ClipPerformed(whole=whole, ways=ways)


def _perform_ways(stage: Stage) -> Iterator[WayPerformed]:
    """Every variant of the layout, in every convention that has a cache."""
    case = stage.case
    x = stage.models.make_input(case)
    for variant, view in enumerate(stage.models.views(case)[: variants(case)]):
        for alike in cut_alike(view.conventions(case.direction)):
            device = stage.device()
            with torch.no_grad(), device, placed(view, device):
                for name, chunked in alike[: ways_sent(case)]:
                    given = view.coder_input(case.direction, device.put(x))
                    way = _perform_way(stage, view, variant, name, chunked, given, device)
                    yield way
                    if way.failure is not None and way.failure.hung:
                        return  # each further way would wait as long


def _perform_way(
    stage: Stage,
    view: LayoutVAE,
    variant: int,
    name: str,
    chunked: Chunked,
    given: Tensor,
    device: Device,
) -> WayPerformed:
    coder = coder_of(view, stage.case.direction)
    stream = Stream(coder, chunked, given, device, collects=True)
    gc.freeze()  # what was there before the clip need not be searched for cycles after each chunk
    try:
        made = stage.attempt(view, device, lambda _: stream.run())
    finally:
        gc.unfreeze()
    return WayPerformed(
        variant=variant, convention=name, sent=tuple(stream.sent), failure=made.failure
    )


def variants(case: Case) -> int | None:
    """Through how many variants of the layout a clip is sent; ``None`` for all."""
    return None if case.frames <= MEDIUM else 1


def ways_sent(case: Case) -> int | None:
    """In how many conventions that cut alike it is sent; ``None`` for all."""
    return None if case.frames <= SHORT else 1


def cut_alike(conventions: Iterable[Convention]) -> list[list[tuple[str, Chunked]]]:
    """Conventions with a cache, those together that share what a clip does untiled."""
    groups: dict[str, list[tuple[str, Chunked]]] = {}
    for convention in conventions:
        if convention.chunked is not None:
            named = (convention.name, convention.chunked)
            groups.setdefault(convention.chunked.split, []).append(named)
    return list(groups.values())


# What the judge makes of it ------------------------------------------------------------------


def examine_clip(
    case: Case, promise: Promise, performed: ClipPerformed, bench: Bench
) -> ClipObserved:
    """Hold a clip against the same clip untiled and in float64."""
    whole = bench.beyond_doubt(seen(performed.whole, case, promise, bench.baseline(case)))
    ways = tuple(_ways(case, promise, performed, bench))
    failures = (way.failure for way in ways if way.failure is not None)
    return ClipObserved(
        case=case,
        promise=promise,
        failure=whole.failure or next(failures, None),
        whole=whole,
        ways=ways,
    )


def _ways(case: Case, promise: Promise, performed: ClipPerformed, bench: Bench) -> Iterator[Way]:
    """What the runner has told of, in the order in which the field has it."""
    told = {(way.variant, way.convention): way for way in performed.ways}
    hung = performed.whole.failure is not None and performed.whole.failure.hung
    hung = hung or any(way.failure is not None and way.failure.hung for way in performed.ways)
    x = bench.make_input(case)
    views, twins = bench.views(case), bench.twins(case)
    for variant, (view, twin) in enumerate(zip(views, twins, strict=True)):
        label = f"{getattr(view, 'variant', view.layout)}, " if len(views) > 1 else ""
        for alike in cut_alike(view.conventions(case.direction)):
            known = [
                (name, told.get((variant, name)) or _untold(variant, name))
                for name, _ in alike[: ways_sent(case)]
                if (variant, name) in told or _is_due(case, promise, variant, hung)
            ]
            followed = _Followed(case, view, twin, alike[0][1], x) if known else None
            for name, way in known:
                assert followed is not None
                found = _beside(case, promise, way, followed)
                yield replace(found, convention=label + name, own=name == alike[0][0])


def _is_due(case: Case, promise: Promise, variant: int, hung: bool) -> bool:
    """Whether the runner owes a result: what it leaves out must not pass for what it did."""
    count = variants(case)
    return promise.kind == "forward" and not hung and (count is None or variant < count)


def _untold(variant: int, name: str) -> WayPerformed:
    failure = untold("the runner told nothing of it")
    return WayPerformed(variant=variant, convention=name, sent=(), failure=failure)


class _Followed:
    """A clip untiled and in float64, and with further draws where they are wanted."""

    def __init__(
        self, case: Case, view: LayoutVAE, twin: LayoutVAE, chunked: Chunked, x: Tensor
    ) -> None:
        self._case, self._view, self._chunked, self._x = case, view, chunked, x
        with torch.no_grad(), open_device(case.device) as device, placed(view, device):
            self.track = follow(view, twin, case.direction, chunked, x, device)

    def raised(self) -> Track:
        """The track with further draws."""
        if self.track.further is None:
            case = self._case
            with open_device(case.device) as device:
                further = draw_further(
                    self.track, self._view, case.direction, self._chunked, self._x, device
                )
            self.track = replace(self.track, further=further)
        return self.track


def _beside(case: Case, promise: Promise, performed: WayPerformed, followed: _Followed) -> Way:
    sent = _as_sent(performed.sent, followed.track)
    failure = performed.failure
    if failure is None and len(sent) < len(followed.track.untiled):
        failure = untold("the runner told nothing of later chunks")
    way = _way(case, performed, sent, failure, followed.track)
    if promise.by_noise(case.direction) and is_doubtful(_pairs(way)):
        return _way(case, performed, sent, failure, followed.raised())
    return way


def _as_sent(sent: Sequence[Sent], track: Track) -> tuple[Sent, ...]:
    """Chunks in their order, no more than there are."""
    return tuple(
        each for number, each in enumerate(sent[: len(track.untiled)]) if each.number == number
    )


def _way(
    case: Case,
    performed: WayPerformed,
    sent: tuple[Sent, ...],
    failure: Failure | None,
    track: Track,
) -> Way:
    base, measured = track.baseline(), None
    output = None if failure is not None else joined(sent)
    kind = output is not None and (output.shape, output.dtype)
    if output is not None and kind == (base.output.shape, base.output.dtype):
        measured = distance(output, base, case.direction)
    return Way(
        convention=performed.convention,
        own=False,
        chunks=tuple(track.beside(each) for each in sent),
        baseline=base,
        output=output,
        borders=track.borders,
        distance=measured,
        failure=failure,
    )


def _pairs(way: Way) -> Iterator[tuple[Noise, Noise]]:
    """Errors and floors of all slots, of all frames and of the changes between them."""
    for slot in chain.from_iterable(chunk.slots for chunk in way.chunks):
        if slot.error is not None and slot.floor is not None:
            yield slot.error, slot.floor
    if way.distance is not None and way.output is not None:
        yield way.distance.error, way.distance.floor
        yield from ((part.error, part.floor) for part in way.distance.frames)
        yield from changes(way.output, way.baseline)
