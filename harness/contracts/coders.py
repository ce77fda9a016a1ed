"""How a VAE and its coders are called, in one layout or another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from vae_compat.contracts.cases import Direction


class LayoutVAE(Protocol):
    """A VAE seen through one layout, as the fixtures hand it over."""

    vae: nn.Module
    """What a hook of kind ``vae`` or ``function`` is given."""
    layout: str
    ratio: int
    """Image pixels per latent pixel, along one side."""

    @property
    def encoder(self) -> nn.Module:
        """The bare encoder, which a hook of kind ``forward`` is put on."""
        ...

    @property
    def decoder(self) -> nn.Module:
        """The bare decoder."""
        ...

    def run(self, direction: Direction, x: Tensor) -> Tensor:
        """The whole direction as a pipeline calls it.

        Encode: image -> moments (mean and log-variance, ``B 2C [T] H W``). Decode: latent ->
        image. This includes the layout's own chunks, caches, quant convolutions and clamps.
        """
        ...

    def conventions(self, direction: Direction) -> tuple[Convention, ...]:
        """Every way in which the field calls this coder, the layout's own way first."""
        ...

    def coder_input(self, direction: Direction, x: Tensor) -> Tensor:
        """What the bare coder gets if ``run`` gets ``x`` (after patchify and quant convolution)."""
        ...


def coder_of(view: LayoutVAE, direction: Direction) -> nn.Module:
    """The bare coder of a direction."""
    return view.decoder if direction is Direction.DECODE else view.encoder


@dataclass(frozen=True)
class Chunk:
    """The frames of a clip that a causal coder gets in one call."""

    frames: Tensor
    """``B C t H W``."""
    first: bool
    last: bool


@dataclass(frozen=True)
class Chunked:
    """How a convention sends a clip through a causal coder, chunk by chunk.

    All chunks of a clip share one cache list of ``slots(coder)`` entries, which are ``None`` at
    first. Every chunk gets a new index list ``[0]``.
    """

    slots: Callable[[nn.Module], int]
    cut: Callable[[Tensor], tuple[Chunk, ...]]
    """The chunks of a clip ``B C T H W``, in order."""
    call: Callable[[nn.Module, Chunk, list[Any], list[int]], Any]
    """Coder, chunk, cache, index -> tensor, list of tensors, or ``None`` for a deferred chunk."""
    split: str
    """Names the cut: conventions of a view with the same word cut a clip alike and fill the same
    slots."""


@dataclass(frozen=True)
class Convention:
    """One way in which the field calls a coder of a layout.

    ``call(coder, x)`` makes the calls of a whole clip (fresh caches, chunk after chunk, arguments
    by position or by keyword) and returns what came out, concatenated over time.
    """

    name: str
    call: Callable[[nn.Module, Tensor], Tensor]
    chunked: Chunked | None = None
    """How to make the same calls one by one; ``None`` where there is no cache."""


@dataclass(frozen=True)
class CoderCall:
    """One call that reached a coder's forward while the hook was on."""

    coder: str
    """``encoder`` or ``decoder``."""
    original: bool
    """Whether the hook itself called the original forward."""
    shape: tuple[int, ...]
    arguments: Mapping[str, str]
    """Arguments after the input, as ``name: repr of kind``."""
