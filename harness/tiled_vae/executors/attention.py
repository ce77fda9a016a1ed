"""Attention over a whole plane with bounded memory: all keys, a band of queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnknownCoderError
from ..nets.layers import normalised
from ..program.steps import Attend
from ..program.window import Span
from ..runtime.planes import Plane
from .job import Job


def attend(job: Job, step: Attend, bands: Sequence[Span]) -> None:
    """Fill the plane of ``step`` from the stored plane that it attends to."""
    source, target = job.planes[step.inputs[0]], job.planes[step.output]
    shape = source.shape
    if step.whole is not None:
        attend_whole(job, step.whole, source, target)
        return
    width = Span(0, shape.width)
    keys, values, queries = Tokens(job.device), Tokens(job.device), Tokens(source.home)
    for rows in bands:
        x = framed(source.read(rows, width, job.device))
        if step.norm is not None:
            moments = job.moments(step.norm, step.spatial, step.inputs[0])
            x = normalised(step.norm, x, moments, job.prepared)
        projected = step.project(x)
        del x
        for tokens, part in zip((queries, keys, values), projected, strict=True):
            tokens.write(part, rows, shape.height, step.heads)
        del projected, part
        job.visit()
    for rows in bands:
        query = queries.read(rows, shape.width, job.device)
        mixed = F.scaled_dot_product_attention(query, keys.all(), values.all())
        del query
        # N heads n D -> N C h W
        mixed = mixed.transpose(2, 3).flatten(1, 2)
        mixed = torch.unflatten(mixed, 2, (rows.size, shape.width))
        mixed = step.finish(mixed)
        if shape.frames is not None:
            mixed = mixed.transpose(0, 1).unsqueeze(0)
        x = source.read(rows, width, job.device)
        mixed = mixed + x
        del x
        target.write(rows, width, mixed if step.divisor == 1.0 else mixed / step.divisor)
        del mixed
        job.visit()


def attend_whole(job: Job, call: Callable[[Tensor], Tensor], source: Plane, target: Plane) -> None:
    """Fill ``target`` by a block that is called on all of ``source``."""
    area = Span(0, source.shape.height), Span(0, source.shape.width)
    mixed = call(source.read(*area, job.device))
    shape = source.shape
    frames = () if shape.frames is None else (shape.frames,)
    if not isinstance(mixed, Tensor) or mixed.shape[1:] != (
        shape.channels,
        *frames,
        shape.height,
        shape.width,
    ):
        raise UnknownCoderError("an attention gives a plane of another shape")
    target.write(*area, mixed)
    job.visit()


def framed(x: Tensor) -> Tensor:
    """``1 C T h W`` -> ``T C h W``; attention never looks at other frames."""
    return x if x.dim() == 4 else x[0].transpose(0, 1)


class Tokens:
    """Queries, keys or values of all pixels: ``N heads H*W D``."""

    def __init__(self, home: torch.device) -> None:
        self.home = home
        self.tensor: Tensor | None = None

    def write(self, part: Tensor, rows: Span, height: int, heads: int) -> None:
        """Store a band ``N C h W``."""
        width = part.shape[3]
        tokens = torch.unflatten(part.flatten(2), 1, (heads, -1)).transpose(2, 3)
        if self.tensor is None:
            size = (*tokens.shape[:2], height * width, tokens.shape[3])
            self.tensor = torch.empty(size, dtype=part.dtype, device=self.home)
        self.tensor[:, :, rows.start * width : rows.stop * width].copy_(tokens)

    def read(self, rows: Span, width: int, device: torch.device) -> Tensor:
        """The tokens of a band."""
        return self.all()[:, :, rows.start * width : rows.stop * width].to(device)

    def all(self) -> Tensor:
        """The tokens of the plane."""
        if self.tensor is None:
            raise RuntimeError("tokens were read before they were written")
        return self.tensor
