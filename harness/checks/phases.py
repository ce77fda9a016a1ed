"""Advanced: how far a hook has come with causal caches, and what a clip takes while it runs."""

from __future__ import annotations

from vae_compat.checks.caches import coherent
from vae_compat.checks.clips import check_video_parity, incomplete
from vae_compat.checks.finding import Finding, Phase, Status, Tier
from vae_compat.checks.speaking import Metrics, Speaker
from vae_compat.checks.wording import mebibytes
from vae_compat.device.meter import largest_plane
from vae_compat.measure.clip import ChunkSeen, ClipObserved, Way
from vae_compat.measure.observation import Observation

_PHASE = Speaker("cache_phase", Tier.ADVANCED)
_PARKED = Speaker("cache_parked", Tier.ADVANCED)
_GROWTH = Speaker("memory_growth", Tier.ADVANCED)


SAVES = 0.9
"""Share of the untiled peak up to which a clip counts as smaller."""
PARKED = 0.5
"""Share of what untiled leaves on the device between chunks that a split cache may leave there.

Untiled keeps the whole cache on the device, two frames of every activation: a hook that splits
the work and leaves that where it is takes memory by the size of the picture, not of the tile. Some
must stay: the untiled coders don't fetch what temporal downsamplings remember from the host.
"""
SETTLED = 2
"""The first chunk finds an empty cache, the second its first frames: from the third on, chunks are
alike."""
LONG = 9
"""Latent frames of a clip that has settled chunks both early and late, two frames a chunk."""


def check_cache_phase(observed: ClipObserved) -> Finding:
    """The hook comes as far with causal caches as its profile claims, called as VAEs call it.

    ``split`` must save; ``fallback`` must be right; with ``none`` nothing is said of caches, but
    the family is claimed, so its clips must be right as well.
    """
    ratio = clip_ratio(observed)
    phase = _phase(observed, ratio)
    numbers: Metrics = {"phase": None if phase is None else str(phase), "clip_vram_ratio": ratio}
    if phase is None:
        return _PHASE.not_judged(
            "peak memory was not measured, which tells a split from a fallback", metrics=numbers
        )
    wanted = Phase.SPLIT if observed.promise.cache == "split" else Phase.FALLBACK
    if phase.reaches(wanted):
        return _PHASE.passed(numbers)
    unsized = ratio is None or phase is Phase.CRASHES
    size = "" if unsized else f", {ratio:.2f} x the peak of untiled"
    return _PHASE.failed(
        observed,
        f"a hook that {phase}{size}",
        f"one that {wanted}, as cache = {observed.promise.cache!r} claims",
        metrics=numbers,
    )


def clip_ratio(observed: ClipObserved) -> float | None:
    """Peak of the clip over that of untiled, both over the weights: the worst of all runs.

    Of the bare coder where the hook is on it: in the whole VAE the frames that are done rest on
    the device, which no hook of a coder can help and which outweighs all else in a long clip.
    ``None`` where no run was measured.
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
    if ratio is None:
        return None
    if ratio <= SAVES:
        return Phase.SPLIT
    return Phase.UNSAVING if _tiled(observed.whole) else Phase.FALLBACK


def _tiled(whole: Observation) -> bool:
    """Whether no convolution wrote a plane as large as untiled."""
    ours, untiled = whole.reading.convolutions, whole.baseline.reading.convolutions
    return bool(ours and untiled) and largest_plane(ours) != largest_plane(untiled)


def check_cache_parked(observed: ClipObserved) -> Finding:
    """Between chunks nothing is on the device that untiled would not leave there.

    A hook that claims ``split`` parks the cache: at most half of what untiled leaves may stay.
    """
    split = observed.promise.cache == "split"
    for way in observed.shown:
        lives = _series(way, "live_bytes")
        if lives is None:
            return _PARKED.not_judged(f"live bytes were not measured ({way.convention})")
        for chunk, (ours, untiled) in enumerate(zip(*lives, strict=True)):
            bound = int(PARKED * untiled) if split else untiled
            if ours > bound:
                return _PARKED.failed(
                    observed,
                    f"{mebibytes(ours)} left on the device after chunk {chunk}"
                    f"{_resting(way.chunks[chunk])} ({way.convention})",
                    f"at most {mebibytes(bound)}: untiled leaves {mebibytes(untiled)}"
                    + (", and a split cache rests elsewhere" if split else ""),
                )
    if not any(way.chunks for way in observed.ways):
        return _PARKED.not_judged("no chunk came through (see clip_completes)")
    return _PARKED.passed()


def _resting(chunk: ChunkSeen) -> str:
    """Slots that rest on the device, in words."""
    found = [slot for slot in chunk.slots if slot.on_device]
    if not found:
        return ", none of it in a slot"
    return f", with {len(found)} slots, the first slot {found[0].number} ({found[0].name})"


def check_memory_growth(observed: ClipObserved) -> Finding:
    """Peak and live bytes do not grow with the number of chunks by more than untiled's.

    Two settled chunks early in the clip are held against its last two.
    """
    if not observed.ways or any(way.failure is not None for way in observed.shown):
        return _GROWTH.not_judged("the clip did not come through (see clip_completes)")
    numbers: Metrics = {}
    for way in observed.shown:
        for name in ("peak_bytes", "live_bytes"):
            series = _series(way, name)
            if series is None:
                return _GROWTH.not_judged(f"{name} were not measured ({way.convention})")
            if not numbers.get(name):
                numbers = {
                    **numbers,
                    name: " ".join(map(str, series[0])),
                    f"untiled_{name}": " ".join(map(str, series[1])),
                }
            ours, untiled = (_growth(each) for each in series)
            if ours > max(untiled, 0):
                return _GROWTH.failed(
                    observed,
                    f"{name.replace('_bytes', '')} memory that grows by {mebibytes(ours)} from "
                    f"chunk {SETTLED} to chunk {len(series[0]) - 1} ({way.convention})",
                    f"at most {mebibytes(max(untiled, 0))}, as untiled",
                    metrics=numbers,
                )
    return _GROWTH.passed(numbers)


def _series(way: Way, name: str) -> tuple[list[int], list[int]] | None:
    """A number of each chunk, the hook's and untiled; ``None`` where it was not measured."""
    pairs = [getattr(chunk, name) for chunk in way.chunks]
    if any(value is None for pair in pairs for value in pair):
        return None
    return [ours for ours, _ in pairs], [untiled for _, untiled in pairs]


def _growth(series: list[int]) -> int:
    return max(series[-2:]) - max(series[SETTLED : SETTLED + 2])
