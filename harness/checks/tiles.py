"""Minimum: tiles really ran. Otherwise no other verdict means anything."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vae_compat.checks.comparing import output_of
from vae_compat.checks.conditions import (
    claimed,
    may_run_untiled,
    one_tile,
    plays,
    single_run,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.unfolded import areas, share_of_others, with_unfolded
from vae_compat.checks.wording import IN, apart, raised, raised_at, shape
from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.device.meter import Convolution, largest_plane
from vae_compat.measure.observation import Observation, Origin
from vae_compat.scenarios.strip import GROWTH, StripObserved, both_sizes, longest_of


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_tiles_ran(observation: Observation) -> Answer:
    """Convolutions ran on smaller planes than untiled, more often, and covered the whole."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    ours = with_unfolded(observation)
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
    got = f"{calls} convolutions ran, untiled {once}"
    if not smaller:
        got = f"the largest plane of a convolution is {area[0]}x{area[1]}, as untiled"
        if observation.promise.in_ranks:
            got += ", on one rank at least"
        elif calls > once:
            got += f", though {calls} convolutions ran and untiled {once}: tiles ran in part alone"
    case = observation.case
    tiles, claim = f"tiles of {case.tile} latent pixels did not run", "claims tiling"
    if observation.promise.in_ranks:  # which are not told a size of tiles
        tiles, claim = "the plane was not shared among the ranks", "runs on several ranks"
    return not_judged(
        f"{tiles}: {got}; a hook that {claim} must cut a plane of {case.height}x{case.width}",
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


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.STRIP) & ~may_run_untiled)
def check_requested_tile(observed: StripObserved) -> Answer:
    """The tile size that is asked for is what runs, along each axis that the hook cuts.

    A low wide plane and a narrow high one are run in tiles of two sizes. No convolution may write a
    plane longer than a tile with the widest useful halo on either side. That halo is the receptive
    field of the family's decoder, up to a multiple of 8 latent pixels. Tiles of twice the size
    must be longer, by about as much, or take more memory where a tile is computed in pieces that
    are as long for both sizes. Tiles of another shape may be longer if they are shorter
    across: on a plane that is long both ways, the largest may have no more than 1.5 times the area
    that was asked for, without its halo. A profile that claims a ``tile_multiple`` is asked for
    multiples of it. Metrics are in latent pixels.
    """
    case = observed.case
    failure = observed.failure
    if failure is not None and failure.origin is Origin.HOOK:
        return failed(raised_at(failure), "a result", IN + observed.doing)
    if failure is not None:
        return not_judged(raised(failure))
    first, second = observed.reached
    if not first or not second:
        return not_judged("no convolution was counted, so nothing shows what size of tile ran")
    tiles = [each.tile for each in both_sizes(case)]
    numbers: Metrics = {
        f"reached_{tile}": n for tile, n in zip(tiles, observed.reached, strict=True)
    }
    if observed.sides is not None:
        numbers = {**numbers, "tile_area": observed.area}
    if observed.follows or observed.keeps_area:
        return passed(numbers)
    bound = longest_of(case)
    where = f"along the {observed.axis} of a plane of {case.height}x{case.width} latent pixels"
    if first > bound:
        return failed(
            f"planes of {first:g} latent pixels for a tile of {case.tile}",
            f"at most {bound}, a tile with a halo of {case.facts.widest_halo} on either side",
            where,
            metrics=numbers,
        )
    wanted = f"planes that grow with the tile, to at most {observed.most:g}"
    if second > first:
        wanted += f", or tiles of at most {GROWTH:g} x the area that was asked for"
    else:
        wanted += ", or memory that does"
        wanted += "; a hook that rounds sizes says so by a tile_multiple in its claims"
    return failed(
        f"planes of {first:g} latent pixels for a tile of {tiles[0]}, and of {second:g} for one of "
        f"{tiles[1]}",
        wanted,
        where,
        metrics=numbers,
    )


def _least_done(
    ours: Mapping[Convolution, int], untiled: Mapping[Convolution, int], frames: int
) -> tuple[tuple[int, ...], float]:
    """The weight that wrote the smallest share of the area that it must write, and that share.

    A sound hook writes at least the area of one frame of the untiled run. The untiled run calls the
    convolutions of a causal net frame by frame, while a hook may pass all frames at once.
    """
    done, due = areas(ours), areas(untiled)
    shares = {weight: frames * done.get(weight, 0) / area for weight, area in due.items()}
    weight, share = min(shares.items(), key=lambda entry: entry[1], default=((), 1.0))
    if share < 1 and (found := share_of_others(ours, untiled, frames)) >= 1:
        return weight, found
    return weight, share
