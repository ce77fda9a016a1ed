"""Recommended: tiling saves memory, and does not waste work."""

from __future__ import annotations

from vae_compat.cases import Case, Mode
from vae_compat.checks.finding import Finding, Tier
from vae_compat.checks.speaking import Metrics, Speaker, no_output
from vae_compat.checks.tiles import may_run_untiled
from vae_compat.checks.wording import mebibytes
from vae_compat.measure.observation import Observation

_PEAK = Speaker("peak_vram", Tier.RECOMMENDED)
_WORK = Speaker("work", Tier.RECOMMENDED)
_TRANSFERS = Speaker("transfers", Tier.RECOMMENDED)

RECEPTIVE_FIELD = 24
"""Latent pixels to one side that an output pixel can depend on by convolutions alone: 18 in the
decoders of SD and Wan, and a margin for the nets to come."""


def check_peak_vram(observation: Observation) -> Finding:
    """The peak over the weights is below that of the untiled VAE, where tiles must run.

    Metric ``vram_ratio``: (peak - weights) / (untiled peak - weights).
    """
    if (why := no_output(observation)) is not None:
        return _PEAK.not_judged(why, metrics={"vram_ratio": None})
    peak, untiled = observation.reading.peak_bytes, observation.baseline.reading.peak_bytes
    weights = observation.baseline.weight_bytes
    if peak is None or untiled is None or untiled <= weights:
        return _PEAK.not_judged("peak memory was not measured", metrics={"vram_ratio": None})
    ratio = (peak - weights) / (untiled - weights)
    numbers: Metrics = {
        "vram_ratio": ratio,
        "peak_bytes": peak,
        "untiled_peak_bytes": untiled,
        "weight_bytes": weights,
    }
    if ratio >= 1.0 and not may_run_untiled(observation.case, observation.promise):
        return _PEAK.failed(
            observation,
            f"a peak of {mebibytes(peak - weights)} over the weights, {ratio:.2f} x untiled",
            f"below the {mebibytes(untiled - weights)} of the untiled VAE",
            metrics=numbers,
        )
    return _PEAK.passed(numbers)


def work_bound(case: Case) -> float:
    """FLOPs over untiled that no way of tiling exactly needs to exceed.

    The most wasteful sound way computes each tile with a halo as wide as the whole receptive
    field, cut off where the plane ends, and throws the halos away. An estimating mode may also
    look at the whole plane once.
    """

    def along(size: int) -> float:
        starts = range(0, size, case.tile)
        rows = (
            min(start + case.tile + RECEPTIVE_FIELD, size) - max(start - RECEPTIVE_FIELD, 0)
            for start in starts
        )
        return sum(rows) / size

    estimates = 1.0 if case.mode in (Mode.FAST, Mode.COLOR_FIX) else 0.0
    return along(case.height) * along(case.width) + estimates


def check_work(observation: Observation) -> Finding:
    """FLOPs stay below those of full halos around every tile; a quadtree's are only reported.

    The tiles of a quadtree depend on the picture, so there is no number to hold it to.
    """
    if (why := no_output(observation)) is not None:
        return _WORK.not_judged(why)
    ours, untiled = observation.reading.flops, observation.baseline.reading.flops
    if not ours or not untiled:
        return _WORK.not_judged("FLOPs were not measured", metrics={"flops_ratio": None})
    ratio, bound = ours / untiled, work_bound(observation.case)
    numbers: Metrics = {"flops_ratio": ratio, "flops": ours, "flops_bound": bound}
    if ratio > bound and observation.case.mode is not Mode.QUADTREE:
        return _WORK.failed(
            observation,
            f"{ratio:.2f} x the FLOPs of untiled",
            f"at most {bound:.2f} x, the cost of a halo of {RECEPTIVE_FIELD} latent pixels around "
            f"every tile of {observation.case.tile}",
            metrics=numbers,
        )
    return _WORK.passed(numbers)


def check_transfers(observation: Observation) -> Finding:
    """Copies between host and device were counted. They inform and never fail."""
    if (why := no_output(observation)) is not None:
        return _TRANSFERS.not_judged(why)
    up, down = observation.reading.host_to_device, observation.reading.device_to_host
    numbers: Metrics = {
        "host_to_device": up,
        "device_to_host": down,
        "allocations": observation.reading.allocations,
    }
    if up is None or down is None:
        return _TRANSFERS.not_judged("transfers were not measured", metrics=numbers)
    return _TRANSFERS.passed(numbers)
