"""What the numbers of records mean, and their units. It imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """A number, or a word, that checks put into records."""

    unit: str
    text: str


_RATIO = "x floor"
_VALUE = "values of the result"
_UNTILED = "x untiled"
_COUNT = "count"
_BYTES = "bytes"

COPIES = tuple(
    f"{memory}_{waiting}_{layout}"
    for memory in ("pageable", "pinned")
    for waiting in ("blocking", "async")
    for layout in ("strided", "contiguous")
)
"""Kinds of copies between host and device."""
WAITS = ("read", "copy", "nonzero", "synchronize")
"""Causes for which the host waits for the device."""

METRICS: Mapping[str, Metric] = {
    # How far from the truth
    "error_rms": Metric(_VALUE, "Root mean square of the hook's difference from the truth."),
    "error_worst": Metric(_VALUE, "The hook's largest difference from the truth."),
    "floor_rms": Metric(_VALUE, "Root mean square of the untiled VAE's difference from the truth."),
    "floor_worst": Metric(_VALUE, "The untiled VAE's largest difference from the truth."),
    "ratio": Metric(_RATIO, "error_rms over floor_rms: about 1 where tiling adds no error."),
    "ratio_N": Metric(_RATIO, "The same for item N of a batch."),
    "frame_ratio": Metric(_RATIO, "The same for the worst frame of a clip."),
    "worst_ratio": Metric(_RATIO, "The same for the worst call of a sequence."),
    "psnr": Metric("dB", "Peak signal-to-noise ratio against the truth, infinite where equal."),
    "correlation": Metric("-1 to 1", "Pearson's correlation of result and truth."),
    "deviations": Metric(
        "standard deviations", "rms error of an encoder's mean, over the spread of the true one."
    ),
    "level_change": Metric(
        "8-bit levels", "The most that a pixel of the picture moves from untiled."
    ),
    "differing": Metric(
        "share of pixels",
        "Pixels of which a channel is farther from the truth than 8 x floor_worst.",
    ),
    "worst_at": Metric("place", "Where the worst element is, in pixels of the result."),
    "worst_frame": Metric("frame", "Number of the frame that is worst, from 0."),
    "run": Metric("name", "Through which calls the worst frame came: the whole VAE, or a way."),
    "jump": Metric(
        _VALUE, "How far the difference from untiled jumps from one frame to the next, at most."
    ),
    "non_finite": Metric(_COUNT, "Elements of the result that are NaN or infinite."),
    "shift": Metric(
        "8-bit levels", "The largest mean difference from untiled of a channel of an item."
    ),
    "plain_rms": Metric(_VALUE, "error_rms of plain tiles that overlap and fade into each other."),
    "frames_apart": Metric(
        "x", "error_rms over plain_rms of the worst latent frame, over that of the best."
    ),
    "plain_shift": Metric("8-bit levels", "The shift of the worst region of plain tiles."),
    # Seams
    "seam": Metric("0 or 1", "Whether a seam was found."),
    "lines": Metric(_COUNT, "Rows and columns along which the error stands out."),
    "band_rms": Metric(_VALUE, "rms error beside the nominal borders of tiles."),
    "interior_rms": Metric(
        _VALUE,
        "rms error away from the nominal borders of tiles; a seam is where band_rms is larger.",
    ),
    "band_worst": Metric(_VALUE, "Largest error beside the nominal borders of tiles."),
    "interior_worst": Metric(_VALUE, "Largest error away from the nominal borders of tiles."),
    "band_differing": Metric("share of pixels", "`differing`, beside the borders alone."),
    "interior_differing": Metric("share of pixels", "`differing`, away from the borders."),
    # Range of a picture
    "lowest": Metric(_VALUE, "Smallest value of the hook's picture."),
    "highest": Metric(_VALUE, "Largest value of the hook's picture."),
    "untiled_lowest": Metric(_VALUE, "Smallest value of the untiled picture."),
    "untiled_highest": Metric(_VALUE, "Largest value of the untiled picture."),
    # Memory
    "vram_ratio": Metric(
        _UNTILED, "(peak_bytes - weight_bytes) / (untiled_peak_bytes - weight_bytes)."
    ),
    "clip_vram_ratio": Metric(_UNTILED, "The same for the peak of a whole clip."),
    "peak_bytes": Metric(
        _BYTES, "Most that was live on the device; in memory_growth one number a chunk."
    ),
    "untiled_peak_bytes": Metric(_BYTES, "The same without the hook."),
    "weight_bytes": Metric(_BYTES, "Parameters and buffers of the VAE."),
    "live_bytes": Metric(_BYTES, "Live on the device after each chunk of a clip."),
    "untiled_live_bytes": Metric(_BYTES, "The same without the hook."),
    "live_bytes_left": Metric(_BYTES, "Live after the call beyond what was live before it."),
    "live_first": Metric(_BYTES, "Live at the first convolution of an undisturbed call."),
    "live_failed": Metric(_BYTES, "Live when memory ran out."),
    "live_after": Metric(_BYTES, "Least that was live at a convolution after memory had run out."),
    "peak_allocated": Metric(_BYTES, "Most that PyTorch's allocator had handed out."),
    "peak_reserved": Metric(_BYTES, "Most that PyTorch's allocator had taken from the GPU."),
    "untiled_peak_allocated": Metric(_BYTES, "peak_allocated without the hook."),
    "untiled_peak_reserved": Metric(_BYTES, "peak_reserved without the hook."),
    # Work
    "flops": Metric("FLOPs", "Floating point operations; a multiply-add is two."),
    "flops_ratio": Metric(_UNTILED, "flops over those of the untiled VAE."),
    "flops_bound": Metric(_UNTILED, "What flops_ratio may be: full halos around every tile."),
    "host_to_device": Metric(_BYTES, "Copied from the host to the device."),
    "device_to_host": Metric(_BYTES, "Copied from the device to the host."),
    "blocking_bytes": Metric(_BYTES, "Of both, in copies that the host waits for."),
    "strided_bytes": Metric(_BYTES, "Of both, in copies of which a side is packed first."),
    **{
        f"copied_{kind}": Metric(_BYTES, f"Of both, in copies that are {kind.replace('_', ', ')}.")
        for kind in COPIES
    },
    "allocations": Metric(_COUNT, "Tensors for which memory of the device was asked."),
    "kernels": Metric(_COUNT, "Kernel launches."),
    "untiled_kernels": Metric(_COUNT, "The same without the hook."),
    "kernel_bytes_read": Metric(_BYTES, "Read by kernels from the device's memory."),
    "kernel_bytes_written": Metric(_BYTES, "Written by kernels to the device's memory."),
    "waits": Metric(_COUNT, "Times that the host waited for the device."),
    **{f"waits_{cause}": Metric(_COUNT, f"Of these, for a {cause}.") for cause in WAITS},
    "waits_per_tile": Metric(_COUNT, "waits over the tiles of the plane without overlap."),
    "collections": Metric(_COUNT, "Calls of gc.collect."),
    "cache_clears": Metric(_COUNT, "Calls of torch.cuda.empty_cache."),
    "host_peak_pageable": Metric(_BYTES, "Most that tensors took of the host's pageable memory."),
    "host_peak_pinned": Metric(_BYTES, "Most that tensors took of the host's pinned memory."),
    "host_memory_ratio": Metric("x result", "Both, over the bytes of the result."),
    "host_allocations": Metric(_COUNT, "Tensors for which memory of the host was asked."),
    "host_allocated": Metric(_BYTES, "Memory of the host that they asked for, all together."),
    "races": Metric(_COUNT, "Places where streams use memory in no order."),
    "convolutions": Metric(_COUNT, "Convolutions that ran on the device."),
    "convolutions_none": Metric(_COUNT, "The same with no overlap of tiles."),
    "convolutions_half": Metric(_COUNT, "The same with tiles that overlap by half."),
    "untiled_convolutions": Metric(_COUNT, "The same without the hook."),
    "largest_plane": Metric("HxW", "Largest plane that a convolution of the hook wrote."),
    "untiled_plane": Metric("HxW", "The same without the hook."),
    "area_share": Metric(
        _UNTILED,
        "Area that the convolutions of the least used weight wrote on the device, of the area that"
        " they must: below 1 part of the work was done elsewhere.",
    ),
    "seconds": Metric("s", "Median time of the hook by CUDA events."),
    "untiled_seconds": Metric("s", "The same without the hook, in the same process."),
    "time_ratio": Metric(_UNTILED, "seconds over untiled_seconds; informs, and never fails."),
    "time_ratio_least": Metric(_UNTILED, "The least that single runs of both make of it."),
    "time_ratio_most": Metric(_UNTILED, "The most that single runs of both make of it."),
    # A GPU's time, estimated without data
    "gpu": Metric("name", "The GPU for which times are estimated."),
    "estimated_time_ratio": Metric(_UNTILED, "estimated_seconds over those of untiled."),
    "estimated_seconds": Metric("s", "What the run would take on the GPU of the profile."),
    "untiled_estimated_seconds": Metric("s", "The same without the hook."),
    "first_cause": Metric("name", "What most of the estimated time goes into."),
    "first_cause_share": Metric("0 to 1", "Its share of that time."),
    "launches_ratio": Metric(_UNTILED, "Kernel launches over those of untiled."),
    "kernel_bytes_ratio": Metric(_UNTILED, "Bytes that kernels read and write, over untiled's."),
    "host_waits": Metric(_COUNT, "Times that the host would wait for the device."),
    "pageable_bytes": Metric(_BYTES, "Copied from or to memory of the host that is not pinned."),
    # Calls, caches, relations
    "conventions": Metric(_COUNT, "Ways of calling the coder that were tried."),
    "refused": Metric(_COUNT, "Ways of calling that did not give the untiled shape."),
    "refused_ways": Metric("names", "Which ways these are."),
    "phase": Metric("word", "How far the hook has come with causal caches."),
    "slots_compared": Metric(_COUNT, "Slots of feature caches that were compared with untiled."),
    "answer": Metric("words", "What the hook did where it had to refuse."),
    "residue": Metric(_COUNT, "Changes that the hook left behind in the VAE or the process."),
    "tile_area": Metric(
        "square latent pixels", "Largest tile of another shape than was asked for, without a halo."
    ),
    "reached_N": Metric("latent pixels", "Longest plane that ran for tiles of N latent pixels."),
    "batch_peak": Metric(_BYTES, "Most that was live for a batch, beyond what was there before."),
    "item_peak": Metric(_BYTES, "The same for its larger item alone."),
    "steps": Metric(_COUNT, "Calls of a sequence."),
    "sizes": Metric(_COUNT, "Sizes of tiles that were tried."),
    "pairs": Metric(_COUNT, "Pairs of results that were compared to the bit."),
    "apart": Metric("x rms", "Largest difference of two results that should be one."),
    "bound": Metric("x rms", "What `apart` may be: rounding, or 0."),
    "dtype": Metric("name", "In which dtype the two results were computed."),
}


def metric_of(name: str) -> tuple[str, Metric] | None:
    """A metric, and the name that it is listed by: ``ratio_3`` is a ``ratio_N``."""
    listed = name if name in METRICS else re.sub(r"_\d+$", "_N", name)
    return (listed, METRICS[listed]) if listed in METRICS else None


def line_of(name: str) -> str:
    """``flops [FLOPs]: Floating point operations; ...``."""
    return f"{name} [{METRICS[name].unit}]: {METRICS[name].text}"
