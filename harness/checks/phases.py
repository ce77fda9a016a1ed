"""Advanced: how well a hook handles causal caches, and the memory that a clip takes."""

from __future__ import annotations

import math

from vae_compat.checks.caches import coherent
from vae_compat.checks.clips import check_video_parity, incomplete
from vae_compat.checks.conditions import (
    accelerator,
    claimed,
    clip,
    long_clip,
    replaces_forward,
    vram_tells,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import apart, mebibytes, mebibytes_apart
from vae_compat.contracts.finding import Metrics, Phase, Status, Tier
from vae_compat.device.ledger import ROUNDING
from vae_compat.device.meter import largest_plane
from vae_compat.measure.observation import Observation
from vae_compat.scenarios.clip import ClipObserved, Way
from vae_compat.scenarios.tracks import ChunkSeen

SAVES = 0.9
"""Share of the untiled peak up to which a clip counts as smaller. The value is a choice: a hook
that falls back takes 1, and less than a tenth is no saving that anybody tiles for."""
PARKED = 0.5
"""Share of what untiled leaves on the device between chunks that a parked cache may leave there.

Untiled keeps the whole cache on the device: two frames of every activation. A hook that splits the
work but leaves the cache there needs memory in proportion to the picture and not to the tile, which
is for its profile to say. A part must stay, because the coders themselves do not fetch the slots of
temporal downsamplings from the host.

Half is a choice. It lies between the known-bad hook ``stays-on-device``, which leaves every slot
there, and the sound hook ``caching``, which leaves only those that the coders do not fetch.
"""


@check(tier=Tier.ADVANCED, when=claimed & clip & accelerator & whole_net)
def check_cache_phase(observed: ClipObserved) -> Answer:
    """The hook handles causal caches as well as its profile claims, when VAEs call it.

    With ``split`` it must compute no plane as large as untiled, and save memory if it claims to
    park its caches as well: caches that stay on the device may be as large as all else. With
    ``fallback`` it must be right. ``none`` claims nothing of caches, but the family is claimed, so
    its clips must be right as well. Where peak memory says nothing (a small clip on a real GPU), a
    hook counts as splitting if its planes are smaller.
    """
    told = observed.case.vram_tells
    ratio = clip_ratio(observed) if told else None
    phase = _phase(observed, ratio)
    numbers: Metrics = {"phase": None if phase is None else str(phase)}
    if told:
        numbers = {**numbers, "clip_vram_ratio": ratio}
    if phase is None:
        return not_judged(
            "peak memory was not measured, which tells a split from a fallback", metrics=numbers
        )
    splits = observed.promise.cache == "split" and not observed.promise.tiles_when_short
    saves = Phase.SPLIT if observed.promise.parks else Phase.UNSAVING
    wanted = saves if splits else Phase.FALLBACK
    if phase.reaches(wanted):
        return passed(numbers)
    size = ""
    if ratio is not None and phase is not Phase.CRASHES:
        size = f", {apart(ratio, SAVES, '.2f')[0]} x the peak of untiled"
    return failed(
        f"a hook that {phase}{size}",
        f"one that {wanted}, as cache = {observed.promise.cache!r} claims",
        metrics=numbers,
    )


def clip_ratio(observed: ClipObserved) -> float | None:
    """Peak of the clip divided by that of untiled, both without the weights.

    ``None`` where nothing was measured. It is the worst ratio of all runs. Hooks of a bare coder
    are measured on that coder and not in the whole VAE, which keeps the finished frames on the
    device: such a hook cannot prevent that, and in a long clip these frames outweigh everything
    else.
    """
    measured = [_series(way, "peak_bytes") for way in observed.shown if way.failure is None]
    peaks = [series for series in measured if series is not None and max(series[1])]
    if peaks:
        return max(max(ours) / max(untiled) for ours, untiled in peaks)
    whole, weights = observed.whole, observed.whole.baseline.weight_bytes
    peak, untiled_peak = whole.reading.peak_bytes, whole.baseline.reading.peak_bytes
    if whole.output is None or peak is None or untiled_peak is None or untiled_peak <= weights:
        return None
    return (peak - weights) / (untiled_peak - weights)


def _phase(observed: ClipObserved, ratio: float | None) -> Phase | None:
    if incomplete(observed, [way for way in observed.ways if way.own]) is not None:
        return Phase.CRASHES
    if not coherent(observed) or check_video_parity(observed).status is not Status.PASSED:
        return Phase.INCOHERENT
    if not observed.case.vram_tells:
        return Phase.SPLIT if _tiled(observed.whole) else Phase.FALLBACK
    if ratio is None:
        return None
    if ratio <= SAVES:
        return Phase.SPLIT
    return Phase.UNSAVING if _tiled(observed.whole) else Phase.FALLBACK


def _tiled(whole: Observation) -> bool:
    """Whether no convolution wrote a plane as large as untiled."""
    ours, untiled = whole.reading.convolutions, whole.baseline.reading.convolutions
    return bool(ours and untiled) and largest_plane(ours) != largest_plane(untiled)


@check(tier=Tier.ADVANCED, when=claimed & clip & replaces_forward & accelerator & vram_tells)
def check_cache_parked(observed: ClipObserved) -> Answer:
    """Between chunks the hook leaves no more on the device than untiled does.

    Slots may lie there in the pieces of tiles, each of which an allocator rounds up, and in memory
    of their own where those of untiled are views of the caller's chunk. A hook that claims to park
    offloads the cache: at most half of what untiled leaves may stay. Not all of it can go, because
    coders do not fetch every slot from the host.
    """
    parks = observed.promise.parks
    for way in observed.shown:
        lives = _series(way, "live_bytes")
        if lives is None:
            return not_judged(f"live bytes were not measured ({way.convention})")
        for chunk, (ours, untiled) in enumerate(zip(*lives, strict=True)):
            whole = max(untiled, way.chunks[chunk].slot_bytes)
            bound = int(PARKED * untiled) if parks else whole + _rounding(observed, way, chunk)
            if ours > bound:
                left, most = mebibytes_apart(ours, bound)
                return failed(
                    f"{left} left on the device after chunk {chunk}"
                    f"{_resident(way.chunks[chunk])} ({way.convention})",
                    f"at most {most}: untiled leaves {mebibytes(untiled)}"
                    + (", and the profile claims that caches are parked" if parks else ""),
                )
    if not any(way.chunks for way in observed.ways):
        return not_judged("no chunk came through", blocked_by="clip_completes")
    return passed()


def _rounding(observed: ClipObserved, way: Way, chunk: int) -> int:
    """Bytes by which the pieces of all slots may be rounded up."""
    case, slots = observed.case, len(way.chunks[chunk].slots)
    tiles = math.ceil(case.height / case.tile) * math.ceil(case.width / case.tile)
    return ROUNDING * slots * tiles


def _resident(chunk: ChunkSeen) -> str:
    """Slots that are resident on the device, in words."""
    found = [slot for slot in chunk.slots if slot.on_device]
    if not found:
        return ", none of it in a slot"
    return f", with {len(found)} slots, the first slot {found[0].number} ({found[0].name})"


@check(
    tier=Tier.ADVANCED,
    when=claimed & clip & replaces_forward & accelerator & long_clip & whole_net & vram_tells,
)
def check_memory_growth(observed: ClipObserved) -> Answer:
    """Peak and live bytes grow with the number of chunks by no more than those of untiled.

    The last third of the clip is compared with the one before it: the first finds caches that are
    empty or filled in part, and coders that defer frames differ from chunk to chunk in turn.
    """
    if not observed.ways or any(way.failure is not None for way in observed.shown):
        return not_judged("the clip did not come through", blocked_by="clip_completes")
    numbers: Metrics = {}
    for way in observed.shown:
        for name in ("peak_bytes", "live_bytes"):
            series = _series(way, name)
            if series is None:
                return not_judged(f"{name} were not measured ({way.convention})")
            if not numbers.get(name):
                numbers = {
                    **numbers,
                    name: " ".join(map(str, series[0])),
                    f"untiled_{name}": " ".join(map(str, series[1])),
                }
            ours, untiled = (_growth(each) for each in series)
            if ours > max(untiled, 0):
                grown, most = mebibytes_apart(ours, max(untiled, 0))
                return failed(
                    f"{name.replace('_bytes', '')} memory that grows by {grown} over the last "
                    f"{len(series[0]) // 3} chunks ({way.convention})",
                    f"at most {most}, as untiled",
                    metrics=numbers,
                )
    return passed(numbers)


def _series(way: Way, name: str) -> tuple[list[int], list[int]] | None:
    """A number per chunk, of the hook and of untiled; ``None`` where it was not measured."""
    pairs = [getattr(chunk, name) for chunk in way.chunks]
    if any(value is None for pair in pairs for value in pair):
        return None
    return [ours for ours, _ in pairs], [untiled for _, untiled in pairs]


def _growth(series: list[int]) -> int:
    third = len(series) // 3
    return max(series[-third:]) - max(series[third:-third])
