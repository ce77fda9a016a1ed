"""Minimum: tiles really ran. Otherwise no other verdict means anything."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vae_compat.checks.comparing import output_of
from vae_compat.checks.conditions import (
    claimed,
    may_run_untiled,
    one_tile,
    single_run,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import apart, shape
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.device.meter import Convolution, largest_plane
from vae_compat.measure.observation import Observation


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_tiles_ran(observation: Observation) -> Answer:
    """Convolutions ran on smaller planes than untiled, more often, and covered the whole."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    ours = observation.reading.convolutions
    untiled = observation.baseline.reading.convolutions
    if not ours or not untiled:
        return not_judged("no convolution was counted, so nothing shows that tiles ran")
    area, calls = largest_plane(ours), sum(ours.values())
    whole, once = largest_plane(untiled), sum(untiled.values())
    smaller = math.prod(area) < math.prod(whole)
    numbers: Metrics = {
        "largest_plane": f"{area[0]}x{area[1]}",
        "untiled_plane": f"{whole[0]}x{whole[1]}",
        "convolutions": calls,
        "untiled_convolutions": once,
    }
    weight, share = _least_done(ours, untiled, observation.case.frames)
    numbers = {**numbers, "area_share": share}
    if share < 1:
        written, _ = apart(100 * share, 100.0, ".2f")
        return not_judged(
            f"the work was not done on the device: convolutions there with a weight of "
            f"{shape(weight)} wrote {written} % of the area that they must, so memory and time "
            f"of the result were not seen",
            metrics=numbers,
        )
    if may_run_untiled(observation.case, observation.promise) or (smaller and calls > once):
        return passed(numbers)
    got = (
        f"the largest plane of a convolution is {area[0]}x{area[1]}, untiled {whole[0]}x{whole[1]}"
        if not smaller
        else f"{calls} convolutions ran, untiled {once}"
    )
    return not_judged(
        f"tiles of {observation.case.tile} latent pixels did not run: {got}; "
        f"a hook that claims tiling must cut a plane of "
        f"{observation.case.height}x{observation.case.width}",
        metrics=numbers,
    )


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & one_tile)
def check_single_tile(observation: Observation) -> Answer:
    """A plane that fits one tile is not cut: it needs no more convolutions than untiled."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    ours = sum(observation.reading.convolutions.values())
    untiled = sum(observation.baseline.reading.convolutions.values())
    if not ours or not untiled:
        return not_judged("no convolution was counted")
    if ours > untiled:
        case = observation.case
        return failed(
            f"{ours} convolutions for a plane of {case.height}x{case.width} latent pixels",
            f"{untiled}, as untiled: it fits one tile of {case.tile}",
            metrics={"convolutions": ours},
        )
    return passed({"convolutions": ours})


def _least_done(
    ours: Mapping[Convolution, int], untiled: Mapping[Convolution, int], frames: int
) -> tuple[tuple[int, ...], float]:
    """The weight that wrote the smallest share of the area that it must write, and that share.

    A sound hook writes at least the area of one frame of the untiled run. The untiled run calls the
    convolutions of a causal net frame by frame, while a hook may pass all frames at once.
    """
    done, due = _areas(ours), _areas(untiled)
    shares = {weight: frames * done.get(weight, 0) / area for weight, area in due.items()}
    return min(shares.items(), key=lambda entry: entry[1], default=((), 1.0))


def _areas(convolutions: Mapping[Convolution, int]) -> dict[tuple[int, ...], int]:
    """Area written by the convolutions of each weight, ``out in kH kW``.

    The temporal size of a kernel is left out, because for a single frame a hook may use the last
    temporal slice as a 2-D kernel. Kernels of one pixel are left out, because they may run as
    matrix products.
    """
    areas: dict[tuple[int, ...], int] = {}
    for ran, count in convolutions.items():
        weight = (*ran.weight[:2], *ran.weight[-2:])
        if weight[2] * weight[3] > 1:
            areas[weight] = areas.get(weight, 0) + ran.plane[0] * ran.plane[1] * count
    return areas
