"""A clip through the bare coder without any hook: what every hooked run of it is held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.cases import Direction
from vae_compat.device import Device
from vae_compat.device.meter import Reading
from vae_compat.measure.caches import Access, CacheLog, Holds, Slot
from vae_compat.measure.distance import correlation, floor_of, floors, largest, noise
from vae_compat.measure.draws import DRAWS, moved
from vae_compat.measure.observation import (
    WHOLE,
    Baseline,
    Chunked,
    Floors,
    LayoutVAE,
    Noise,
    coder_of,
)
from vae_compat.measure.performed import Sent
from vae_compat.measure.placing import placed
from vae_compat.measure.streams import Stream


@dataclass(frozen=True)
class SlotSeen:
    """A slot after a chunk, the hook's beside the untiled one. Without their frames."""

    number: int
    name: str
    """Module path of the causal convolution: ``decoder.up_blocks.0.resnets.1.conv2``."""
    ours: str
    """What it holds, in words (``Slot.told``)."""
    untiled: str
    holds: tuple[Holds, Holds]
    writes: tuple[int, int] = (0, 0)
    """How often the slot was written during the call."""
    looks_back: bool = False
    """Whether the weights of the convolution read what is kept here: in a probe, few do."""
    on_device: bool = False
    """Whether the hook's frames rest on the device."""
    error: Noise | None = None
    """Distance of the frames from those of float64; ``None`` where they cannot be compared."""
    floor: Noise | None = None
    correlation: float | None = None

    @property
    def same_kind(self) -> bool:
        """Whether both hold nothing, the same word, or frames of the same shape and dtype."""
        ours, untiled = self.holds
        return ours is untiled is not Holds.FOREIGN and self.ours == self.untiled


@dataclass(frozen=True)
class ChunkSeen:
    """A chunk with the hook on, beside the same chunk untiled."""

    number: int
    frames: int
    returned: tuple[str, str]
    """What came out, in words: the hook's, and untiled."""
    sizes: tuple[str, str]
    """Shapes of the tensors in it, likewise: ``1x3x4x32x48``, ``B C t H W``."""
    index: tuple[int | None, int | None]
    """Where ``feat_idx`` ended."""
    slots: tuple[SlotSeen, ...]
    lengths: tuple[int, int]
    """Of the cache list."""
    shared: frozenset[tuple[int | str, int | str]]
    """Slots that share memory, and don't untiled."""
    written_between: tuple[int, ...]
    """Slots written since the call for the chunk before returned, and before this one began."""
    peak_bytes: tuple[int | None, int | None]
    live_bytes: tuple[int | None, int | None]


@dataclass(frozen=True)
class Further:
    """The largest noise of further draws of a clip, beside that of the first one."""

    output: Floors
    chunks: Floors
    """``(chunk, None)`` is of what came out for a chunk, ``(chunk, slot)`` of a slot after it."""


@dataclass(frozen=True)
class Track:
    """A clip, untiled and in float64."""

    untiled: tuple[Sent, ...]
    truth: tuple[Sent, ...]
    names: Mapping[int, str]
    """Module path of the causal convolution behind each slot."""
    looking_back: frozenset[str]
    """Those of them that look at frames before the present one."""
    further: Further | None = None
    """The largest noise of further draws, where some were made."""

    def beside(self, ours: Sent) -> ChunkSeen:
        """Hold a chunk against the same chunk untiled, and its slots against the truth."""
        untiled, truth = self.untiled[ours.number], self.truth[ours.number]
        known = {} if self.further is None else self.further.chunks
        nothing = Slot(Holds.NOTHING)
        slots = zip_longest(ours.slots, untiled.slots, truth.slots, fillvalue=nothing)
        written = _writes(ours), _writes(untiled)
        seen = tuple(
            SlotSeen(
                number=number,
                name=self.names.get(number, "of no convolution"),
                ours=mine.told,
                untiled=bare.told,
                holds=(mine.holds, bare.holds),
                writes=(written[0][number], written[1][number]),
                looks_back=self.names.get(number) in self.looking_back,
                on_device=mine.device not in (None, "cpu"),
                **_distances(mine, bare, right, known.get((ours.number, number))),
            )
            for number, (mine, bare, right) in enumerate(slots)
        )
        return ChunkSeen(
            number=ours.number,
            frames=ours.frames,
            returned=(ours.returned, untiled.returned),
            sizes=(_sizes(ours), _sizes(untiled)),
            index=(ours.index, untiled.index),
            slots=seen,
            lengths=(len(ours.slots), len(untiled.slots)),
            shared=ours.shared - untiled.shared,
            written_between=tuple(
                access.slot for access in ours.accesses if access.writes and access.chunk is None
            ),
            peak_bytes=(ours.peak_bytes, untiled.peak_bytes),
            live_bytes=(ours.live_bytes, untiled.live_bytes),
        )

    @property
    def borders(self) -> tuple[int, ...]:
        """Frames of the output with which a chunk begins, but for the first."""
        starts, frames = [], 0
        for sent in self.untiled:
            starts.append(frames)
            frames += sum(part.shape[2] for part in sent.parts)
        return tuple(dict.fromkeys(start for start in starts if 0 < start < frames))

    def baseline(self) -> Baseline:
        """The output of the bare coder, as the baseline of a case has it; without its costs."""
        output, truth = joined(self.untiled), joined(self.truth)
        assert output is not None
        assert truth is not None
        further = {} if self.further is None else self.further.output
        floor = noise(output, truth).largest(further.get(WHOLE))
        return Baseline(output, truth, floor, Reading(), 0, 0, further=further)


def joined(sent: Sequence[Sent]) -> Tensor | None:
    """All that came out, ``B C T H W``; ``None`` where nothing did, or nothing that fits."""
    parts = [part for each in sent for part in each.parts]
    kinds = {(part.device, part.shape[:2], part.shape[3:]) for part in parts if part.dim() == 5}
    fits = len(kinds) == 1 and all(part.dim() == 5 for part in parts)
    return torch.cat(parts, dim=2) if fits else None


def follow(
    view: LayoutVAE,
    twin: LayoutVAE,
    direction: Direction,
    chunked: Chunked,
    x: Tensor,
    device: Device,
) -> Track:
    """Send a clip through the bare coder untiled and in float64, without any hook.

    ``x`` is what the whole VAE would be given, on the plain CPU. To be called with ``device``
    entered and ``view`` placed on it; ``twin`` is the float64 twin, on the plain CPU.
    """
    name = f"{direction}r"
    with torch.no_grad():
        exact = twin.coder_input(direction, x.double())
        coder = coder_of(twin, direction)
        truth = Stream(coder, chunked, exact)
        with naming(coder, name, truth.log) as names:
            truth.run()
        given = view.coder_input(direction, device.put(x))
        untiled = Stream(coder_of(view, direction), chunked, given, device).run()
    looking_back = frozenset(
        path
        for path, part in coder.named_modules(prefix=name)
        if isinstance(part, nn.Conv3d) and bool(part.weight[:, :, :-1].any())
    )
    return Track(untiled, tuple(truth.sent), names, looking_back)


def draw_further(
    track: Track,
    view: LayoutVAE,
    direction: Direction,
    chunked: Chunked,
    x: Tensor,
    device: Device,
) -> Further:
    """The noise of further draws of a clip that was followed, for results that miss its floors.

    ``view`` is on the plain CPU; ``device`` is entered.
    """
    further = Further({}, {})
    truth = joined(track.truth)
    with torch.no_grad(), placed(view, device):
        for number in range(DRAWS):
            given = view.coder_input(direction, device.put(moved(x, number)))
            drawn = Stream(coder_of(view, direction), chunked, given, device).run()
            output = joined(drawn)
            assert output is not None
            assert truth is not None
            if found := floors(output, truth):
                chunks = dict(_of_chunks(drawn, track.truth))
                further = Further(largest(further.output, found), largest(further.chunks, chunks))
    return further


def _of_chunks(
    drawn: Sequence[Sent], truth: Sequence[Sent]
) -> Iterator[tuple[tuple[int | None, int | None], Noise]]:
    for ours, right in zip(drawn, truth, strict=True):
        if ours.parts:
            yield (ours.number, None), noise(torch.cat(ours.parts, 2), torch.cat(right.parts, 2))
        for number, (mine, known) in enumerate(zip(ours.slots, right.slots, strict=True)):
            if mine.frames is not None and known.frames is not None:
                yield (ours.number, number), noise(mine.frames, known.frames)


@contextmanager
def naming(coder: nn.Module, name: str, log: CacheLog) -> Iterator[Mapping[int, str]]:
    """Find out which causal convolution each slot belongs to, while chunks are sent.

    That is the one that ran last within the module that writes the slot, or, where none ran (a
    temporal resampling that meets the first frame), that module itself.
    """
    names: dict[int, str] = {}
    inside, last = [name], ""

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: inside.append(path)

    def leave(path: str, convolution: bool) -> Callable[..., None]:
        def left(*_: object) -> None:
            nonlocal last
            inside.pop()
            last = path if convolution else last

        return left

    def hear(access: Access) -> None:
        if access.writes:
            names[access.slot] = last if last.startswith(f"{inside[-1]}.") else inside[-1]

    handles: list[Any] = []
    for path, module in coder.named_modules(prefix=name):
        if module is not coder:
            convolution = type(module).__name__.endswith("CausalConv3d")
            handles.append(module.register_forward_pre_hook(enter(path)))
            handles.append(module.register_forward_hook(leave(path, convolution)))
    log.listener = hear
    try:
        yield names
    finally:
        log.listener = None
        for handle in handles:
            handle.remove()


def _sizes(sent: Sent) -> str:
    return " and ".join("x".join(map(str, part.shape)) for part in sent.parts) or "nothing"


def _writes(sent: Sent) -> Counter[int]:
    return Counter(a.slot for a in sent.accesses if a.writes and a.chunk is not None)


def _distances(ours: Slot, untiled: Slot, truth: Slot, further: Noise | None) -> dict[str, Any]:
    """Of the hook's frames from float64, and of the untiled ones; nothing where shapes differ."""
    if ours.frames is None or untiled.frames is None or truth.frames is None:
        return {}
    if ours.told != untiled.told:
        return {}
    return {
        "error": noise(ours.frames, truth.frames),
        "floor": floor_of(untiled.frames, truth.frames).largest(further),
        "correlation": correlation(ours.frames, truth.frames),
    }
