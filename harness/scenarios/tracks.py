"""A clip through the bare coder without any hook, with which every hooked run is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import Chunked, LayoutVAE, coder_of
from vae_compat.device import open_device
from vae_compat.device.meter import Reading
from vae_compat.measure.caches import Access, CacheLog, Holds, Slot
from vae_compat.measure.distance import correlation, floor_of, floors, largest, noise
from vae_compat.measure.draws import DRAWS, another_draw
from vae_compat.measure.float64 import QuickFloat64
from vae_compat.measure.observation import WHOLE, Baseline, Floors, Noise
from vae_compat.measure.placing import running
from vae_compat.scenarios.performed import Sent
from vae_compat.scenarios.streams import Stream


@dataclass(frozen=True)
class SlotSeen:
    """A slot after a chunk, with the hook and untiled, described without its frames."""

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
    """Whether the weights of the convolution use the kept frames: in a probe, few do."""
    on_device: bool = False
    """Whether the hook's frames are resident on the device."""
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
    """Lengths of the cache list: the hook's, and untiled."""
    shared: frozenset[tuple[int | str, int | str]]
    """Slots that share memory although they don't untiled."""
    written_between: tuple[int, ...]
    """Slots written since the call for the chunk before returned, and before this one began."""
    peak_bytes: tuple[int | None, int | None]
    live_bytes: tuple[int | None, int | None]
    slot_bytes: int = 0
    """What the slots of untiled take if none is a view, as of the chunk that was given."""


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
    """Module paths of the convolutions that look at frames before the present one."""
    plane: int = 0
    """Area of the largest plane that a convolution wrote untiled."""
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
            slot_bytes=sum(0 if s.frames is None else s.frames.nbytes for s in untiled.slots),
        )

    @property
    def borders(self) -> tuple[int, ...]:
        """First frames of the output of every chunk but the first."""
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


class Followed:
    """Run a clip without any hook: untiled, in float64, and with further draws where wanted.

    ``view`` and its float64 twin are on the plain CPU, and so is ``x``, which is what the whole VAE
    would be given.
    """

    def __init__(
        self, case: Case, view: LayoutVAE, twin: LayoutVAE, chunked: Chunked, x: Tensor
    ) -> None:
        self._case, self._view, self._chunked, self._x = case, view, chunked, x
        self.track = self._follow(twin)

    def _follow(self, twin: LayoutVAE) -> Track:
        direction, name = self._case.direction, f"{self._case.direction}r"
        coder = coder_of(twin, direction)
        with torch.no_grad(), QuickFloat64():
            truth = Stream(coder, self._chunked, twin.coder_input(direction, self._x.double()))
            with naming(coder, name, truth.log) as names:
                truth.run()
        untiled = self._untiled(self._x)
        looking_back = frozenset(
            path
            for path, part in coder.named_modules(prefix=name)
            if isinstance(part, nn.Conv3d) and bool(part.weight[:, :, :-1].any())
        )
        sent = tuple(untiled.sent), tuple(truth.sent)
        return Track(*sent, names, looking_back, untiled.plane)

    def _untiled(self, x: Tensor) -> Stream:
        """The clip as it went through the bare coder."""
        view, direction = self._view, self._case.direction
        with running(view, open_device(self._case.device)) as device:
            given = view.coder_input(direction, device.put(x))
            stream = Stream(coder_of(view, direction), self._chunked, given, device)
            stream.run()
        return stream

    def raised(self) -> Track:
        """The track with the noise of further draws, for results that miss its floors."""
        if self.track.further is None:
            self.track = replace(self.track, further=self._drawn())
        return self.track

    def further(self, chunk: int) -> Noise | None:
        """The largest noise of further draws of what comes out for a chunk."""
        further = self.raised().further
        return None if further is None else further.chunks.get((chunk, None))

    def _drawn(self) -> Further:
        further = Further({}, {})
        truth = joined(self.track.truth)
        assert truth is not None
        for number in range(DRAWS):
            with another_draw(self._x, number) as x:
                drawn = self._untiled(x).sent
            output = joined(drawn)
            assert output is not None
            if found := floors(output, truth):
                chunks = dict(_of_chunks(drawn, self.track.truth))
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

    It is the one that ran last within the module that writes the slot. Where none ran (a temporal
    resampling at the first frame), it is that module itself.
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
    """Distances of hooked and untiled frames from float64; nothing where shapes differ."""
    if ours.frames is None or untiled.frames is None or truth.frames is None:
        return {}
    if ours.told != untiled.told:
        return {}
    return {
        "error": noise(ours.frames, truth.frames),
        "floor": floor_of(untiled.frames, truth.frames).largest(further),
        "correlation": correlation(ours.frames, truth.frames),
    }
