"""Two results of a hook, or one and the untiled one, that should be one result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae_compat.measure.observation import Failure


@dataclass(frozen=True)
class Comparison:
    """Two results that should be one."""

    what: str
    """Which two results: ``tiles of 8 and tiles of 16 latent pixels``."""
    apart: float
    """Largest difference over the rms of the first; infinite where they cannot be compared."""
    where: str = ""
    """Index of the worst element, or why they cannot be compared."""
    bound: float = 0.0
    """The difference that rounding may cause; 0 where both must be the same to the bit."""
    failure: Failure | None = None
    """The failure of the second call, if it gave no result."""

    @property
    def holds(self) -> bool:
        """Whether they are equal within the bound."""
        return self.apart <= self.bound


def compared(what: str, first: Tensor, second: Tensor, bound: float) -> Comparison:
    """Measure how far two results are apart."""
    if first.shape != second.shape:
        shapes = " and ".join("x".join(map(str, each.shape)) for each in (first, second))
        return Comparison(what, float("inf"), f"shapes {shapes}", bound)
    away = (first.double() - second.double()).abs()
    if not bool(away.isfinite().all()):
        count = int((~away.isfinite()).sum())
        return Comparison(what, float("inf"), f"{count} NaN or infinite elements", bound)
    worst = float(away.max())
    rms = float(first.double().square().mean().sqrt())
    place = f"{tuple(int(i) for i in torch.unravel_index(away.argmax(), away.shape))}"
    if worst and not rms:
        return Comparison(what, float("inf"), f"{place}, and all of the first is zero", bound)
    return Comparison(what, worst / rms if rms else 0.0, place, bound)


def same(what: str, should: Tensor, got: Tensor | None, failure: Failure | None) -> Comparison:
    """Whether a call has given another result to the bit."""
    if failure is not None or got is None:
        return Comparison(what, float("inf"), "no tensor", failure=failure)
    if got.shape != should.shape or got.dtype != should.dtype:
        told = f"another shape or dtype ({tuple(got.shape)}, {got.dtype})"
        return Comparison(what, float("inf"), told)
    if torch.equal(got, should):
        return Comparison(what, 0.0)
    return compared(what, should, got, 0.0)
