"""Convolutions that a hook runs as products of their weights with unfolded pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from vae_compat.device.meter import Convolution, Product
from vae_compat.measure.observation import Observation


def areas(convolutions: Mapping[Convolution, int]) -> dict[tuple[int, ...], int]:
    """Area written by the convolutions of each weight, ``out in kH kW``, in all items of the batch.

    The temporal size of a kernel is left out, because for a single frame a hook may use the last
    temporal slice as a 2-D kernel. Kernels of one pixel are left out, because they may run as
    matrix products.
    """
    areas: dict[tuple[int, ...], int] = {}
    for ran, count in convolutions.items():
        weight = (*ran.weight[:2], *ran.weight[-2:])
        if weight[2] * weight[3] > 1:
            area = ran.items * ran.plane[0] * ran.plane[1] * count
            areas[weight] = areas.get(weight, 0) + area
    return areas


def share_of_others(
    ours: Mapping[Convolution, int], untiled: Mapping[Convolution, int], frames: int
) -> float:
    """Work of convolutions that untiled does not have, over that of its own that are missing.

    A layer may be computed by groups or parts of its channels, or by lines of its kernel: then its
    weight has other shapes, some of which other layers of the net may have. 0 where every
    convolution of the hook is one of untiled's: then nothing stands for what is missing.
    """
    done, due = _work(ours), _work(untiled)
    others = sum(work * _spared(weight, due) for weight, work in done.items() if weight not in due)
    if not others:
        return 0.0
    # Kernels of one pixel are left out, because they may run as matrix products.
    wide = {weight: work for weight, work in due.items() if weight[2] * weight[3] > 1}
    missing = sum(max(0, work - frames * done.get(weight, 0)) for weight, work in wide.items())
    beyond = sum(max(0, frames * done.get(weight, 0) - work) for weight, work in wide.items())
    return (frames * others + beyond) / missing if missing else 1.0


def _spared(weight: tuple[int, ...], due: Iterable[tuple[int, ...]]) -> float:
    """Products that a kernel stands for, over those that it takes.

    After nearest upsampling several taps meet the same pixel. Computed by phases, even and odd
    pixels apart, such taps are added up beforehand: of three taps in a line two are left.
    """
    return max(
        math.prod(
            full / size if size < full < 2 * size else 1.0
            for size, full in zip(weight[2:], other[2:], strict=True)
        )
        for other in due
    )


def _work(convolutions: Mapping[Convolution, int]) -> dict[tuple[int, ...], int]:
    """Products of the convolutions of each weight, ``out in kH kW``."""
    found: dict[tuple[int, ...], int] = {}
    for ran, count in convolutions.items():
        weight = (*ran.weight[:2], *ran.weight[-2:])
        work = math.prod((*weight, ran.items, *ran.plane[:2], count))
        found[weight] = found.get(weight, 0) + work
    return found


def with_unfolded(observation: Observation) -> Mapping[Convolution, int]:
    """The convolutions of the hook, with products that stand for some that are missing.

    A product has no plane with two sides, so it counts as a plane one pixel high.
    """
    ours, untiled = observation.reading.convolutions, observation.baseline.reading.convolutions
    done = areas(ours)
    missing = [weight for weight, area in areas(untiled).items() if done.get(weight, 0) < area]
    found = dict(ours)
    for weight in missing:
        for product, count in observation.reading.products.items():
            if _multiplies(product, weight):
                pixels = product.batch * product.rows * product.columns // weight[0]
                items = observation.case.batch
                ran = Convolution(weight, (1, pixels // items), items)
                found[ran] = found.get(ran, 0) + count
    return found


def _multiplies(product: Product, weight: tuple[int, ...]) -> bool:
    """Whether one side of a product may be this weight ``out in kH kW``, and not a part of it.

    The other has as many numbers for each pixel as the weight takes, of one frame or of the three
    of a causal kernel.
    """
    reads = math.prod(weight[1:])
    return product.inner in (reads, 3 * reads) and weight[0] in (product.rows, product.columns)
