"""Scenario clip: a clip through the whole VAE, and through the bare coder chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.measure.caches import Access
from harness.measure.observation import Baseline, Failure, Noise, Observation, Observed
from harness.measure.stage import Stage


@dataclass(frozen=True)
class SlotSeen:
    """A slot after a chunk, the hook's beside the untiled one. Without their frames."""

    number: int
    name: str
    """Module path of the causal convolution: ``decoder.up_blocks.0.resnets.1.conv2``."""
    ours: str
    """What it holds, in words (``Slot.told``)."""
    untiled: str
    alike: bool
    """Whether both hold the same kind of thing: the same word, or frames of one shape and dtype."""
    error: Noise | None = None
    """Distance of the frames from those of float64; ``None`` where there is nothing to compare."""
    floor: Noise | None = None
    correlation: float | None = None


@dataclass(frozen=True)
class ChunkSeen:
    """A chunk with the hook on, beside the same chunk untiled."""

    number: int
    frames: int
    returned: tuple[str, str]
    """What came out, in words: the hook's, and untiled."""
    index: tuple[int | None, int | None]
    """Where ``feat_idx`` ended."""
    slots: tuple[SlotSeen, ...]
    lengths: tuple[int, int]
    """Of the cache list."""
    shared: frozenset[tuple[int | str, int | str]]
    """Slots that share memory, and don't untiled."""
    accesses: tuple[Access, ...]
    peak_bytes: tuple[int | None, int | None]
    live_bytes: tuple[int | None, int | None]


@dataclass(frozen=True)
class Way:
    """One clip through the bare coder in one convention."""

    convention: str
    chunks: tuple[ChunkSeen, ...]
    """As far as the hook came."""
    baseline: Baseline
    """Untiled and float64 output of the bare coder, ``B C T H W``."""
    output: Tensor | None
    """The hook's; ``None`` where it raised or returned no tensors."""
    borders: tuple[int, ...]
    """Frames of the output with which a chunk begins, but for the first."""
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class ClipObserved(Observed):
    """What a clip showed. Hooks of kind ``forward`` alone meet the bare coder."""

    whole: Observation
    """The whole ``vae.encode`` or ``vae.decode``."""
    ways: tuple[Way, ...] = ()


def observe_clip(stage: Stage) -> ClipObserved:
    """Play a clip in every way of the field."""
    raise NotImplementedError
