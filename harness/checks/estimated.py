"""Recommended: what a GPU would pay, estimated from counts and a table of its rates."""

from __future__ import annotations

from vae_compat.checks.conditions import claimed, plays
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import apart, raised_at
from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.device.meter import Reading
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.estimate import EstimateObserved


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.ESTIMATE))
def check_estimated_time(observed: Observed) -> Answer:
    """The estimated time on a GPU is at most the multiple of untiled that the profile claims.

    Without ``[claims.cost]`` it is only recorded. The estimate plays the trace of the run (kernels,
    copies, waits, work of the host) on the clocks of the GPU. It is the same on every machine, and
    meant for the ratio. The run has shapes and no numbers: of a hook that reads numbers no time is
    known, which is an error where a time is claimed.

    Metrics: the ``gpu``; ``estimated_time_ratio`` to untiled; ``estimated_seconds`` and
    ``untiled_estimated_seconds``; ``first_cause``, into which most of the time goes, and its share
    ``first_cause_share``, from 0 to 1; ``launches_ratio`` and ``kernel_bytes_ratio``, kernel
    launches and bytes that kernels read and write, both to untiled; ``host_waits``, how often the
    host waited for the device; ``pageable_bytes``, copied from or to memory that is not pinned.
    """
    seen = observed if isinstance(observed, EstimateObserved) else None  # else its process ended
    bound = observed.promise.time_ratio
    if seen is None or seen.ours is None:
        unknown: Metrics = {"estimated_time_ratio": None}
        if seen is not None and bound is None:
            return passed(unknown)
        why = "nothing was told" if observed.failure is None else raised_at(observed.failure)
        return not_judged(f"no time can be estimated: {why}", metrics=unknown)
    ours, untiled = seen.ours, seen.untiled
    ratio = ours.seconds / untiled.seconds
    cause, share = ours.first_cause, ours.shares[ours.first_cause]
    metrics: Metrics = {
        "gpu": untiled.gpu,
        "estimated_time_ratio": ratio,
        "estimated_seconds": ours.seconds,
        "untiled_estimated_seconds": untiled.seconds,
        "first_cause": cause,
        "first_cause_share": share,
        **_counters(seen.reading, seen.untiled_reading),
    }
    if bound is not None and ratio > bound:
        got, most = apart(ratio, bound, ".2f")
        return failed(
            f"an estimated {got} x the time of untiled on an {untiled.gpu}, {share:.0%} of it for "
            f"{cause}",
            f"at most {most} x, as claimed",
            metrics=metrics,
        )
    return passed(metrics)


def _counters(ours: Reading, untiled: Reading) -> Metrics:
    return {
        "launches_ratio": _ratio(ours.kernels, untiled.kernels),
        "kernel_bytes_ratio": _ratio(_moved(ours), _moved(untiled)),
        "host_waits": None if ours.waits is None else ours.waits.total,
        "pageable_bytes": sum(copy.nbytes for copy in ours.copies if not copy.pinned),
    }


def _moved(reading: Reading) -> int | None:
    if reading.bytes_read is None or reading.bytes_written is None:
        return None
    return reading.bytes_read + reading.bytes_written


def _ratio(ours: int | None, untiled: int | None) -> float | None:
    return ours / untiled if ours is not None and untiled else None
