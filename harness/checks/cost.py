"""Recommended: tiling saves memory, and does not waste work."""

from __future__ import annotations

from dataclasses import replace

from vae_compat.checks.comparing import output_of
from vae_compat.checks.conditions import (
    accelerator,
    claimed,
    may_run_untiled,
    real_gpu,
    single_run,
    timed,
    vram_tells,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import apart, mebibytes_apart
from vae_compat.contracts.cases import ESTIMATING, Case, Mode
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.measure.observation import Observation

WORK_SLACK = 1e-4
"""Share by which the FLOPs of a hook may exceed their bound. The bound counts tiles alone; means
and blended borders add a few millionths, which is no waste."""


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & accelerator & vram_tells)
def check_peak_vram(observation: Observation) -> Answer:
    """The peak over the weights is below that of the untiled VAE, where tiles must run.

    The bound is untiled itself, because a hook that takes as much is of no use. A lower bound would
    fail sound hooks: on the small planes of a run, a tile with its halo may be nearly as large as
    the plane. What a hook saves is reported, and ``--against`` fails where it becomes less.

    On a real GPU it is judged at real scale from 384 x 640 pixels on. Below that size the
    workspaces of its libraries are larger than the planes.

    Metric ``vram_ratio``: (peak - weights) / (untiled peak - weights).
    """
    unmeasured: Metrics = {"vram_ratio": None}
    output = output_of(observation)
    if isinstance(output, Answer):
        return replace(output, metrics=unmeasured)
    peak, untiled = observation.reading.peak_bytes, observation.baseline.reading.peak_bytes
    weights = observation.baseline.weight_bytes
    if peak is None or untiled is None or untiled <= weights:
        return not_judged("peak memory was not measured", metrics=unmeasured)
    ratio = (peak - weights) / (untiled - weights)
    numbers: Metrics = {
        "vram_ratio": ratio,
        "peak_bytes": peak,
        "untiled_peak_bytes": untiled,
        "weight_bytes": weights,
    }
    if ratio >= 1.0 and not may_run_untiled(observation.case, observation.promise):
        ours, theirs = mebibytes_apart(peak - weights, untiled - weights)
        return failed(
            f"a peak of {ours} over the weights, {apart(ratio, 1.0, '.2f')[0]} x untiled",
            f"below the {theirs} of the untiled VAE",
            metrics=numbers,
        )
    return passed(numbers)


def work_bound(case: Case, passes: int = 1) -> float:
    """FLOPs, divided by those of untiled, that no exact way of tiling needs to exceed.

    The most wasteful sound way computes each tile with the widest halo that is of any use, cut off
    where the plane ends, and throws the halos away. An estimating mode may also look at the whole
    plane once. Where planes are cut in several ways, tiles may be half as high and twice as wide or
    the other way round, and so cut a plane that fits a square one.

    This is lax on small planes. Where every tile with its halo covers the plane, the bound is the
    number of tiles: 16 for 32 x 32 latent pixels in tiles of 8. For 128 x 128 in tiles of 64 it is
    1.9. It cannot be tighter, because a hook that sends each tile through the whole net needs these
    halos to be exact.
    """
    halo, tile = case.facts.widest_halo, case.tile

    def along(size: int, tile: int) -> float:
        starts = range(0, size, tile)
        rows = (min(start + tile + halo, size) - max(start - halo, 0) for start in starts)
        return sum(rows) / size

    shapes = [(tile, tile)]
    if passes > 1:
        half = max(1, tile // 2)
        shapes += [(half, 2 * tile), (2 * tile, half)]
    estimates = 1.0 if case.mode in ESTIMATING else 0.0
    cut = max(along(case.height, rows) * along(case.width, columns) for rows, columns in shapes)
    return passes * (cut + estimates)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net)
def check_work(observation: Observation) -> Answer:
    """FLOPs do not exceed those of full halos around every tile.

    The bound is lax on small planes, where it may be as high as the number of tiles: it finds
    overlaps that are of no use, not a hook that is slower than others. Work that grows from one
    version of a hook to the next is found by ``--against``.

    The tiles of a quadtree depend on the picture, so its FLOPs have no bound and are only reported.
    """
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    ours, untiled = observation.reading.flops, observation.baseline.reading.flops
    if not ours or not untiled:
        return not_judged("FLOPs were not measured", metrics={"flops_ratio": None})
    ratio, bound = ours / untiled, work_bound(observation.case, observation.promise.passes)
    if observation.promise.is_short(observation.case):
        bound += 1.0  # an attempt without tiles that ends for want of memory
    if observation.promise.time_tiles(observation.case):
        bound *= 2.0  # time tiles that overlap by half
    numbers: Metrics = {"flops_ratio": ratio, "flops": ours, "flops_bound": bound}
    if ratio > bound * (1 + WORK_SLACK) and observation.case.mode is not Mode.QUADTREE:
        got, most = apart(ratio, bound, ".2f")
        return failed(
            f"{got} x the FLOPs of untiled",
            f"at most {most} x, the cost of a halo of {observation.case.facts.widest_halo} latent "
            f"pixels around every tile of {observation.case.tile}",
            metrics=numbers,
        )
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & real_gpu, informs=True)
def check_allocator(observation: Observation) -> Answer:
    """Bytes that PyTorch's allocator handed out and took from the GPU at most are recorded."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    ours, untiled = observation.reading, observation.baseline.reading
    numbers: Metrics = {
        "peak_allocated": ours.peak_bytes,
        "peak_reserved": ours.peak_reserved,
        "untiled_peak_allocated": untiled.peak_bytes,
        "untiled_peak_reserved": untiled.peak_reserved,
    }
    if ours.peak_bytes is None:
        return not_judged("the allocator was not read", metrics=numbers)
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & timed, informs=True)
def check_time(observation: Observation) -> Answer:
    """Time by CUDA events is recorded, beside that of untiled in the same process; it never fails.

    Metric ``time_ratio``: median over median, after a run that does not count. ``time_ratio_least``
    and ``time_ratio_most`` are what single runs of both make of it.
    """
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    times = observation.times
    if times is None or not times.tell:
        return passed({"time_ratio": None})
    least, most = times.spread
    return passed(
        {
            "time_ratio": times.ratio,
            "time_ratio_least": least,
            "time_ratio_most": most,
            "seconds": times.seconds,
            "untiled_seconds": times.untiled_seconds,
        }
    )
