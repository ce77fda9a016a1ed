"""What each call of a sequence should give, and how far its result is from that.

The VAE itself remembers nothing but what is in a feature cache. So each call of a sequence has one
right result: that of the same call in an undisturbed run, untiled and in float64. Calls of other
sizes, other clips and interrupted calls before it change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vae_compat.measure.distance import correlation, floor_of, noise
from vae_compat.measure.draws import is_doubtful
from vae_compat.measure.observation import Noise


@dataclass(frozen=True)
class Step:
    """One call of a sequence, and how far its result is from the right one."""

    name: str
    """``chunk 2 of clip A, untiled``."""
    got: str
    """Shape and dtype of the result, or a description of what was returned instead."""
    should: str
    """Shape and dtype of the right result."""
    against: str
    """What the right result is, in words."""
    strict: bool
    """Whether the result must be within the noise of the VAE; otherwise a correlation is enough."""
    floor: Noise
    """Distance of the untiled result of this call from float64, the largest of all draws, and never
    less than its rounding."""
    error: Noise | None = None
    """``None`` where the result cannot be compared."""
    correlation: float | None = None


@dataclass(frozen=True)
class Right:
    """What a call should give, on the plain CPU."""

    untiled: Tensor
    truth: Tensor
    alone: Tensor | None = None
    """What an inexact hook itself gives for this call with no call before it."""
    mixed: bool = False
    """Whether that depends on inexact chunks before it; then only a correlation is required.
    """
    further: Callable[[], Noise | None] = lambda: None
    """The largest noise of further draws of ``untiled``."""

    def step(self, name: str, returned: str, output: Tensor | None) -> Step:
        """Compare a result with this one."""
        against = "untiled and float64" if self.alone is None else "the hook's own, by itself"
        step = Step(
            name=name,
            got=returned if output is None else _told(output),
            should=_told(self.untiled),
            against=against,
            strict=not self.mixed,
            floor=floor_of(self.untiled, self.truth),
        )
        if output is None or step.got != step.should:
            return step
        alone = self.truth if self.alone is None else self.alone
        right = alone.double() if alone.shape == self.truth.shape else self.truth
        error, floor = noise(output, right), step.floor
        if step.strict and is_doubtful([(error, floor)]):
            floor = floor.largest(self.further())
        return replace(step, error=error, floor=floor, correlation=correlation(output, self.truth))


def all_of(parts: tuple[Tensor, ...]) -> Tensor:
    """The frames of several tensors, ``B C T H W``, one after the other."""
    return torch.cat(parts, dim=2)


def _told(tensor: Tensor) -> str:
    size = "x".join(map(str, tensor.shape))
    return f"{size} {str(tensor.dtype).removeprefix('torch.')}"
