"""Scenario clip: a clip through the whole VAE, and through the bare coder chunk by chunk."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain

import torch
from torch import Tensor
from vae_compat.device import Device, open_device
from vae_compat.measure.distance import Distance, changes, distance
from vae_compat.measure.draws import beyond_doubt, is_doubtful
from vae_compat.measure.observation import (
    Baseline,
    Chunked,
    Convention,
    Failure,
    LayoutVAE,
    Noise,
    Observation,
    Observed,
    coder_of,
)
from vae_compat.measure.placing import placed
from vae_compat.measure.run import attempt, observe
from vae_compat.measure.stage import Stage
from vae_compat.measure.streams import Stream
from vae_compat.measure.tracks import ChunkSeen, SlotSeen, Track, draw_further, follow, joined

__all__ = ["ChunkSeen", "ClipObserved", "SlotSeen", "Way", "observe_clip"]

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
    beyond_repair: tuple[str, ...] = ()
    """What the hook has left in the VAE that could not be undone."""


@dataclass(frozen=True, kw_only=True)
class ClipObserved(Observed):
    """What a clip showed. Hooks of kind ``forward`` alone meet the bare coder."""

    whole: Observation
    """The whole ``vae.encode`` or ``vae.decode``."""
    ways: tuple[Way, ...] = ()

    @property
    def shown(self) -> tuple[Way, ...]:
        """The ways that there is something to see of: a call that is refused shows no caches."""
        return tuple(way for way in self.ways if way.own or way.failure is None)


def observe_clip(stage: Stage) -> ClipObserved:
    """Play a clip in every way of the field."""
    case, bench = stage.case, stage.bench
    whole = observe(
        case,
        stage.promise,
        stage.hook,
        bench.view(case),
        bench.make_input(case),
        bench.baseline(case),
        stage.device,
        seconds=stage.seconds,
    )
    whole = beyond_doubt(whole, partial(bench.raised, case))
    hung = whole.failure is not None and whole.failure.hung
    ways = () if hung or getattr(stage.hook, "kind", "forward") != "forward" else _ways(stage)
    failures = (way.failure for way in ways if way.failure is not None)
    return ClipObserved(
        case=case,
        promise=stage.promise,
        failure=whole.failure or next(failures, None),
        beyond_repair=(*whole.beyond_repair, *chain(*(way.beyond_repair for way in ways))),
        whole=whole,
        ways=ways,
    )


def _ways(stage: Stage) -> tuple[Way, ...]:
    """Every variant of the layout, in every convention that has a cache."""
    case, ways = stage.case, []
    x = stage.bench.make_input(case)
    count = None if case.frames <= MEDIUM else 1
    views, twins = stage.bench.views(case)[:count], stage.bench.twins(case)[:count]
    for number, (view, twin) in enumerate(zip(views, twins, strict=True)):
        label = f"{getattr(view, 'variant', view.layout)}, " if len(views) > 1 else ""
        for alike in cut_alike(view.conventions(case.direction)):
            with torch.no_grad(), open_device(case.device) as device, placed(view, device):
                track = follow(view, twin, case.direction, alike[0][1], x, device)
                raised = cache(partial(_raised, stage, number, alike[0][1], x, track, device))
                for name, chunked in alike[: None if case.frames <= SHORT else 1]:
                    given = view.coder_input(case.direction, device.put(x))
                    way = _way(stage, view, label + name, chunked, given, track, raised, device)
                    ways.append(replace(way, own=name == alike[0][0]))
                    if way.failure is not None and way.failure.hung:
                        return tuple(ways)  # each further way would wait as long
    return tuple(ways)


def cut_alike(conventions: Iterable[Convention]) -> list[list[tuple[str, Chunked]]]:
    """Conventions with a cache, those together that share what a clip does untiled."""
    groups: dict[str, list[tuple[str, Chunked]]] = {}
    for convention in conventions:
        if convention.chunked is not None:
            named = (convention.name, convention.chunked)
            groups.setdefault(convention.chunked.split, []).append(named)
    return list(groups.values())


def _way(
    stage: Stage,
    view: LayoutVAE,
    name: str,
    chunked: Chunked,
    given: Tensor,
    track: Track,
    raised: Callable[[], Track],
    device: Device,
) -> Way:
    direction = stage.case.direction
    coder = coder_of(view, direction)
    stream = Stream(coder, chunked, given, device, track.untiled)
    gc.freeze()  # what was there before the clip need not be searched for cycles after each chunk
    try:
        trial = attempt(
            stage.case, stage.hook, view, device, stage.seconds, None, lambda _: stream.run()
        )
    finally:
        gc.unfreeze()
    came = tuple(stream.sent)
    output = None if trial.failure is not None else joined(came)

    def beside(track: Track) -> Way:
        base, measured = track.baseline(), None
        kind = output is not None and (output.shape, output.dtype)
        if output is not None and kind == (base.output.shape, base.output.dtype):
            measured = distance(output, base, direction)
        return Way(
            convention=name,
            own=False,
            chunks=tuple(track.beside(sent) for sent in came),
            baseline=base,
            output=output,
            borders=track.borders,
            distance=measured,
            failure=trial.failure,
            beyond_repair=trial.beyond_repair,
        )

    way = beside(track)
    if stage.promise.by_noise(direction) and is_doubtful(_pairs(way)):
        return beside(raised())
    return way


def _raised(
    stage: Stage, number: int, chunked: Chunked, x: Tensor, track: Track, device: Device
) -> Track:
    """The track with further draws, by the same variant of a VAE that no hook has been on."""
    view = stage.bench.anew(stage.case)[number]
    further = draw_further(track, view, stage.case.direction, chunked, x, device)
    return replace(track, further=further)


def _pairs(way: Way) -> Iterator[tuple[Noise, Noise]]:
    """Errors and floors of all slots, of all frames and of the changes between them."""
    for slot in chain.from_iterable(chunk.slots for chunk in way.chunks):
        if slot.error is not None and slot.floor is not None:
            yield slot.error, slot.floor
    if way.distance is not None and way.output is not None:
        yield way.distance.error, way.distance.floor
        yield from ((part.error, part.floor) for part in way.distance.frames)
        yield from changes(way.output, way.baseline)
