"""Scenario clip: a clip through the whole VAE, and through the bare coder chunk by chunk."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import Chunked, Convention, coder_of
from vae_compat.contracts.promise import Promise
from vae_compat.measure.distance import Distance, changes, distance
from vae_compat.measure.draws import is_doubtful
from vae_compat.measure.observation import Baseline, Failure, Noise, Observation, Observed, untold
from vae_compat.scenarios.chunks import CLIP_A
from vae_compat.scenarios.performed import ClipPerformed, Sent, WayPerformed
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.single import perform_call, seen
from vae_compat.scenarios.stage import Player, Stage
from vae_compat.scenarios.streams import Stream
from vae_compat.scenarios.tracks import ChunkSeen, Followed, Track, joined

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone

SHORT = 2
"""Latent frames up to which a clip is sent in every convention. A longer one is sent once for each
way of cutting it into chunks, because the naming of arguments makes no difference to later chunks.
"""
MEDIUM = 9
"""Latent frames up to which a clip is sent through every variant of the layout."""


@dataclass(frozen=True)
class Way:
    """One clip through the bare coder in one convention."""

    convention: str
    own: bool
    """Whether the layout's own VAE calls its coder this way; others name arguments differently."""
    chunks: tuple[ChunkSeen, ...]
    """The chunks up to the end, or to the hook's failure."""
    baseline: Baseline
    """Untiled and float64 output of the bare coder, ``B C T H W``."""
    output: Tensor | None
    """The hook's; ``None`` where it raised or returned no tensors."""
    borders: tuple[int, ...]
    """Frames of the output with which a chunk begins, but for the first."""
    distance: Distance | None = None
    """Distance of the output from the truth, where it can be compared."""
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipObserved(Observed):
    """What a clip showed. Only hooks of kind ``forward`` are run on the bare coder."""

    whole: Observation
    """The whole ``vae.encode`` or ``vae.decode``."""
    ways: tuple[Way, ...] = ()

    @property
    def shown(self) -> tuple[Way, ...]:
        """The ways that gave something to compare: a refused call shows no caches."""
        return tuple(way for way in self.ways if way.own or way.failure is None)


class ClipScene(Scene):
    """A clip in every convention in use, compared with the same clip untiled and in float64."""

    performed = ClipPerformed
    against = True

    def perform(self, stage: Stage) -> ClipPerformed:
        """Send the clip through the whole VAE, and in every way through the bare coder."""
        whole = perform_call(stage)
        hung = whole.failure is not None and whole.failure.hung
        ways = () if hung or stage.promise.kind != "forward" else tuple(_perform_ways(stage))
        return ClipPerformed(whole=whole, ways=ways)

    def examine(
        self, case: Case, promise: Promise, performed: ClipPerformed, bench: Bench
    ) -> ClipObserved:
        """Compare the outputs and the cache contents with those of a run without the hook."""
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


# What the runner does ----------------------------------------------------------------------------


def _perform_ways(stage: Stage) -> Iterator[WayPerformed]:
    """Every variant of the layout, in every convention that has a cache."""
    case = stage.case
    x = stage.models.make_input(case)
    for variant, view in enumerate(stage.models.views(case)[: variants(case)]):
        for alike in cut_alike(view.conventions(case.direction)):
            with stage.play(view) as player:
                given = view.coder_input(case.direction, player.device.put(x))
                for name, chunked in alike[: ways_sent(case)]:
                    sent, failure = _sent(player, chunked, given)
                    yield WayPerformed(variant=variant, convention=name, sent=sent, failure=failure)
                    if failure is not None and failure.hung:
                        return  # every further way would hang as long


def _sent(
    player: Player, chunked: Chunked, given: Tensor
) -> tuple[tuple[Sent, ...], Failure | None]:
    """The chunks of a clip up to the hook's failure, and that failure, if any."""
    coder = coder_of(player.view, player.case.direction)
    stream = Stream(coder, chunked, given, player.device, collects=True)
    gc.freeze()  # so that collecting cycles after each chunk skips what existed before the clip
    try:
        made = player.attempt(lambda _: stream.run())
    finally:
        gc.unfreeze()
    return tuple(stream.sent), made.failure


def variants(case: Case) -> int | None:
    """Through how many variants of the layout a clip is sent; ``None`` for all."""
    return None if case.frames <= MEDIUM else 1


def ways_sent(case: Case) -> int | None:
    """In how many conventions that cut alike it is sent; ``None`` for all."""
    return None if case.frames <= SHORT else 1


def cut_alike(conventions: Iterable[Convention]) -> list[list[tuple[str, Chunked]]]:
    """Conventions with a cache, grouped by those whose untiled runs are the same."""
    groups: dict[str, list[tuple[str, Chunked]]] = {}
    for convention in conventions:
        if convention.chunked is not None:
            named = (convention.name, convention.chunked)
            groups.setdefault(convention.chunked.split, []).append(named)
    return list(groups.values())


# What the judge makes of it ----------------------------------------------------------------------


def _ways(case: Case, promise: Promise, performed: ClipPerformed, bench: Bench) -> Iterator[Way]:
    """The ways that the runner reported, in the order of the layout's conventions."""
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
            if not known:
                continue
            chunked = alike[0][1]
            make = partial(Followed, case, view, twin, chunked, x)
            followed = bench.recent(case, (CLIP_A, variant, chunked.split), make)
            for name, way in known:
                found = _beside(case, promise, way, followed)
                yield replace(found, convention=label + name, own=name == alike[0][0])


def _is_due(case: Case, promise: Promise, variant: int, hung: bool) -> bool:
    """Whether the runner left out a result that it should have reported, which must not pass."""
    count = variants(case)
    return promise.kind == "forward" and not hung and (count is None or variant < count)


def _untold(variant: int, name: str) -> WayPerformed:
    failure = untold("the runner told nothing of it")
    return WayPerformed(variant=variant, convention=name, sent=(), failure=failure)


def _beside(case: Case, promise: Promise, performed: WayPerformed, followed: Followed) -> Way:
    sent = _as_sent(performed.sent, followed.track)
    failure = performed.failure
    if failure is None and len(sent) < len(followed.track.untiled):
        failure = untold("the runner told nothing of later chunks")
    way = _way(case, performed, sent, failure, followed.track)
    if promise.by_noise(case) and is_doubtful(_pairs(way)):
        return _way(case, performed, sent, failure, followed.raised())
    return way


def _as_sent(sent: Sequence[Sent], track: Track) -> tuple[Sent, ...]:
    """The reported chunks in order, at most as many as the clip has."""
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
