"""Further draws of the noise of the untiled VAE, for results that one draw of it would reject.

How far one run of the VAE is from the truth is partly chance: another order of additions gives
another error. Usually the next draw is within a quarter of the first. But where a vector is near
zero before it is normalised, one element can carry the error of a whole picture and draw from a
wide range. Seen in a seeded Qwen decoder in float32: rms 4e-7 to 2e-6, worst 4e-5 to 6e-4 at one
and the same element of 153,600. So where a result misses the noise of the first draw, by no more
than draws have been seen to differ, several are made, and the largest noise of them all is the
floor.

A draw is a run on the input with a few of its values moved by a unit in the last place. Computing
the input in another order has the same effect, and it changes roundings everywhere. Moving one
value in eight leaves the size of the noise unchanged. In half precision, moving all values would
add a third to it (seeded SD, Flux and Qwen nets: at most 1.26 times the first draw, in 8 draws).

Every second draw convolves tensors with channels innermost, as a VAE in the memory format
``channels_last`` does. The kernel that a CPU has for them may add up all products one after the
other, and be less accurate for it: on CPUs with AVX-512, 3 x 3 convolutions of 512 channels in
float32 have 4.5 times the noise of those that PyTorch takes for contiguous tensors; with AVX2 both
have the larger noise. Both kernels are right, and so is a hook that takes the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.device import Device
from vae_compat.measure.distance import changes, distance_of, floors, is_exact, largest
from vae_compat.measure.observation import WHOLE, Baseline, Floors, Noise, Observation
from vae_compat.measure.placing import running

DRAWS = 8
"""Beyond the first."""
SHARE = 1 / 8
"""Share of the input's values that are moved."""
EXPLAINED = 100.0
"""A miss of the bounds by more than this factor is not due to the draw: the widest range seen is
60, for the worst element. Making no further draws there saves most of the time that wrong hooks
would cost."""


def moved(x: Tensor, draw: int) -> Tensor:
    """A copy of ``x`` of which some values are the next ones up or down in its dtype."""
    chance = torch.Generator().manual_seed(draw)
    up = torch.rand(x.shape, generator=chance) < 0.5
    chosen = torch.rand(x.shape, generator=chance) < SHARE
    ends = torch.full_like(x, torch.inf)
    return torch.where(chosen, torch.nextafter(x, torch.where(up, ends, -ends)), x)


INNERMOST = {
    torch.conv2d: torch.channels_last,
    torch.conv3d: torch.channels_last_3d,
}
"""Memory formats with channels innermost, by convolution."""


class _ChannelsInnermost(TorchFunctionMode):
    """Convolves as if all tensors were in such a memory format."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if args and (memory_format := INNERMOST.get(func)):
            args = args[0].contiguous(memory_format=memory_format), *args[1:]
        return func(*args, **(kwargs or {}))


@contextmanager
def another_draw(x: Tensor, draw: int) -> Iterator[Tensor]:
    """The input of a draw; what convolves inside does it in the draw's memory format."""
    with _ChannelsInnermost() if draw % 2 else nullcontext():
        yield moved(x, draw)


def draw_floors(case: Case, view: LayoutVAE, x: Tensor, truth: Tensor, device: Device) -> Floors:
    """The largest noise of the untiled VAE in several draws.

    ``x`` and ``device`` as for ``measure_baseline``.
    """
    found: Floors = {}
    with running(view, device):
        for number in range(DRAWS):
            with another_draw(x, number) as drawn:
                result = view.run(case.direction, device.put(drawn))
            found = largest(found, floors(device.host(result), truth))
            del result
    return found


def with_draws(baseline: Baseline, further: Floors) -> Baseline:
    """The baseline with the floors of further draws, where they are larger."""
    floor = baseline.floor.largest(further.get(WHOLE))
    return replace(baseline, floor=floor, further=further)


def is_doubtful(pairs: Iterable[tuple[Noise, Noise]]) -> bool:
    """Whether other draws may show results to be exact that one draw does not.

    ``pairs`` are errors and floors of everything that is held to the noise of the VAE.
    """
    missed = [(error, floor) for error, floor in pairs if not is_exact(error, floor)]
    return bool(missed) and all(
        is_exact(error, Noise(EXPLAINED * floor.rms, EXPLAINED * floor.worst))
        for error, floor in missed
    )


def in_doubt(observation: Observation) -> bool:
    """Whether a whole result is doubtful, or one of its items or frames, or a change of frames."""
    output, base, case = observation.output, observation.baseline, observation.case
    comparable = (
        output is not None
        and observation.failure is None
        and (output.shape, output.dtype) == (base.output.shape, base.output.dtype)
    )
    if output is None or not comparable or not observation.promise.by_noise(case):
        return False
    measured = distance_of(observation)
    pairs = [(measured.error, measured.floor)]
    pairs += [(part.error, part.floor) for part in (*measured.items, *measured.frames)]
    pairs += changes(output, base)
    return is_doubtful(pairs)
