"""Recommended: what a GPU pays for beside FLOPs, and memory that streams use in no order."""

from __future__ import annotations

from collections import Counter

from vae_compat.checks.comparing import output_of
from vae_compat.checks.conditions import (
    claimed,
    promises_host_cost,
    simulated,
    single_run,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.metrics import COPIES, WAITS
from vae_compat.checks.wording import apart, mebibytes_apart
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.device.meter import Reading
from vae_compat.measure.observation import Observation

_COUNTED = claimed & single_run & whole_net & simulated


@check(tier=Tier.RECOMMENDED, when=_COUNTED, informs=True)
def check_transfers(observation: Observation) -> Answer:
    """Copies between host and device, launches, bytes, waits and host memory are counted.

    They are reported, and ``--against`` compares them; no number of them fails here. Bytes that are
    copied are told by the memory on the host (``pageable`` or ``pinned``), by whether the host
    waits (``blocking`` or ``async``), and by whether either side is packed first (``strided``) or
    not (``contiguous``).
    """
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    reading, untiled = observation.reading, observation.baseline.reading
    numbers: Metrics = {
        "host_to_device": reading.host_to_device,
        "device_to_host": reading.device_to_host,
        **_copied(reading),
        "allocations": reading.allocations,
        "kernels": reading.kernels,
        "untiled_kernels": untiled.kernels,
        "kernel_bytes_read": reading.bytes_read,
        "kernel_bytes_written": reading.bytes_written,
        **_waits(reading),
        "collections": reading.collections,
        "cache_clears": reading.cache_clears,
        **_on_host(reading),
    }
    if reading.host_to_device is None or reading.device_to_host is None:
        return not_judged("transfers were not measured", metrics=numbers)
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=_COUNTED & promises_host_cost)
def check_host_cost(observation: Observation) -> Answer:
    """The host waits no more often and holds no more memory than ``[claims.cost]`` allows.

    ``waits_per_tile`` allows so many waits for each tile that the plane takes without overlap;
    ``host_memory`` allows so many times the bytes of the result, in pageable and pinned memory
    together.
    """
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    promise, waits, host = observation.promise, observation.reading.waits, observation.reading.host
    if waits is None or host is None:
        return not_judged("waits and host memory were not counted")
    tiles, held = observation.case.tiles, host.peak_pageable + host.peak_pinned
    numbers: Metrics = {
        "waits_per_tile": waits.total / tiles,
        "host_memory_ratio": held / output.nbytes,
    }
    allowed = promise.waits_per_tile
    if allowed is not None and waits.total > allowed * tiles:
        got, most = apart(waits.total / tiles, allowed, ".2f")
        causes = ", ".join(f"{getattr(waits, cause)} x {cause}" for cause in WAITS)
        return failed(
            f"the host waits {waits.total} times ({causes}), {got} times a tile",
            f"at most {most} times a tile, as claimed",
            metrics=numbers,
        )
    if promise.host_memory is not None and held > promise.host_memory * output.nbytes:
        ours, most = mebibytes_apart(held, int(promise.host_memory * output.nbytes))
        return failed(
            f"{ours} of host memory",
            f"at most {most}, {promise.host_memory:g} x the bytes of the result, as claimed",
            metrics=numbers,
        )
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=_COUNTED)
def check_stream_order(observation: Observation) -> Answer:
    """No memory is used by two streams, or a stream and the host, in no order.

    Order comes from events and waits alone. Uses without it may give the right result a hundred
    times on one GPU and a wrong one on the next; here they are found each time, whatever the
    result. Metric ``races``: at how many places.
    """
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    races = observation.reading.races
    if not races:
        return passed({"races": 0})
    more = f"; and {len(races) - 1} more" if len(races) > 1 else ""
    return failed(
        f"{races[0]}{more}", "every two uses of memory in order", metrics={"races": len(races)}
    )


def _copied(reading: Reading) -> Metrics:
    """Bytes of the slower kinds of copies, and of each kind by itself."""
    found: Counter[str] = Counter()
    for each in reading.copies:
        memory = "pinned" if each.pinned else "pageable"
        waiting = "blocking" if each.blocking else "async"
        layout = "strided" if each.strided else "contiguous"
        kinds = [memory, waiting, layout, f"{memory}_{waiting}_{layout}"]
        found.update(dict.fromkeys(kinds, each.nbytes))
    return {
        "pageable_bytes": found["pageable"],
        "blocking_bytes": found["blocking"],
        "strided_bytes": found["strided"],
        **{f"copied_{kind}": found[kind] for kind in COPIES},
    }


def _waits(reading: Reading) -> Metrics:
    """Waits of the host, all and by cause."""
    waits = reading.waits
    if waits is None:
        return {"waits": None}
    return {"waits": waits.total, **{f"waits_{cause}": getattr(waits, cause) for cause in WAITS}}


def _on_host(reading: Reading) -> Metrics:
    """Memory that tensors took on the host."""
    host = reading.host
    if host is None:
        return {"host_peak_pageable": None}
    return {
        "host_peak_pageable": host.peak_pageable,
        "host_peak_pinned": host.peak_pinned,
        "host_allocations": host.allocations,
        "host_allocated": host.allocated,
    }
