"""What plain tiles give for a case: the least that may be expected of a hook that tiles.

Square tiles overlap by a quarter of their side and begin at multiples of the other three quarters,
as those of diffusers do by default (``tile_overlap_factor`` in
models/autoencoders/autoencoder_kl.py), so that the last ones may be slivers. Each goes through the
whole VAE by itself, with statistics, attention and borders of its own, and neighbours fade into
each other along a straight line. No clip is cut in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case, Direction
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.device import Device
from vae_compat.measure.placing import running
from vae_compat.subject.state import snapshot

OVERLAP = 1 / 4
"""Of a tile's side, with each neighbour."""


def measure_plain_tiles(case: Case, view: LayoutVAE, x: Tensor, device: Device) -> Tensor:
    """Run the untiled VAE tile by tile; ``x`` and ``device`` as for ``measure_baseline``."""
    with running(view, device):
        before = snapshot(view.vae, encoder=view.encoder, decoder=view.decoder)

        def run(tile: Tensor) -> Tensor:
            return device.host(view.run(case.direction, device.put(tile.contiguous())))

        made = overlapping(run, x, case)
        before.put_back()  # causal VAEs keep caches, which would pass for there before the baseline
        return made


def overlapping(run: Callable[[Tensor], Tensor], x: Tensor, case: Case) -> Tensor:
    """The weighted mean of all tiles, in the dtype that ``run`` gives."""
    decoding, ratio = case.direction is Direction.DECODE, case.facts.ratio
    given, made = (1, ratio) if decoding else (ratio, 1)
    weights, dtype = torch.zeros(case.height * made, case.width * made), x.dtype
    sums: Tensor | None = None
    for rows in _spans(case.height, case.tile):
        for columns in _spans(case.width, case.tile):
            tile = run(x[..., rows.of(given), columns.of(given)])
            if sums is None:
                dtype, sums = tile.dtype, torch.zeros(*tile.shape[:-2], *weights.shape)
            weight = rows.ramp(made)[:, None] * columns.ramp(made)
            place = (..., rows.of(made), columns.of(made))
            sums[place] += weight * tile
            weights[place] += weight
    assert sums is not None
    return (sums / weights).to(dtype)


@dataclass(frozen=True)
class _Span:
    """A tile along one axis, in latent pixels."""

    start: int
    stop: int
    before: int
    """Pixels that it shares with the tile before it, as ``after``."""
    after: int

    def of(self, scale: int) -> slice:
        """Where it is on a plane of so many pixels a latent pixel."""
        return slice(self.start * scale, self.stop * scale)

    def ramp(self, scale: int) -> Tensor:
        """Its weights: they fall over what it shares with a neighbour."""
        place = torch.arange((self.stop - self.start) * scale) + 0.5
        rise = place / (self.before * scale) if self.before else torch.ones_like(place)
        fall = place.flip(0) / (self.after * scale) if self.after else torch.ones_like(place)
        return torch.minimum(rise, fall).clamp(max=1.0)


def _spans(size: int, tile: int) -> Iterator[_Span]:
    """Tiles that cover an axis; the last may be a sliver, and lie in the one before it."""
    starts = range(0, size, max(1, tile - int(tile * OVERLAP)))
    ends = [min(start + tile, size) for start in starts]
    for n, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        before = ends[n - 1] - start if n else 0
        after = stop - starts[n + 1] if n + 1 < len(starts) else 0
        yield _Span(start, stop, before, after)
