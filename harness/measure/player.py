"""Plays sequences of calls with a hook, and knows what each of the calls should give.

The VAE itself remembers nothing but what is in a feature cache. So every call of a sequence has a
right result of its own, that of the same call in an undisturbed run, untiled and in float64: other
sizes, other streams and interrupted calls before it change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from vae_compat.cases import Case
from vae_compat.device import open_device
from vae_compat.device.meter import largest_plane
from vae_compat.measure.distance import correlation, floor_of, noise
from vae_compat.measure.draws import is_doubtful
from vae_compat.measure.failing import Interrupted, failure_of, limited, returned_kind
from vae_compat.measure.observation import Chunked, Failure, LayoutVAE, Noise, coder_of
from vae_compat.measure.run import is_plain
from vae_compat.measure.stage import Stage
from vae_compat.measure.streams import Sent, Stream
from vae_compat.measure.tracks import Further, Track, draw_further, follow, joined


@dataclass(frozen=True)
class Step:
    """One call of a sequence, and how far its result is from the right one."""

    name: str
    """``chunk 2 of clip A, untiled``."""
    got: str
    """Shape and dtype of the result, or what else was returned."""
    should: str
    """Shape and dtype of the right one."""
    against: str
    """What the right one is, in words."""
    strict: bool
    """Whether the result must be within the noise of the VAE; otherwise a likeness will do."""
    floor: Noise
    """Distance of the untiled result of this call from float64, the largest if further draws were
    made; the rounding of it at least."""
    error: Noise | None = None
    """``None`` where the result cannot be compared."""
    correlation: float | None = None


@dataclass(frozen=True)
class Right:
    """What a call should give, on the plain CPU."""

    untiled: Tensor
    truth: Tensor
    alone: Tensor | None = None
    """What the hook itself gives with no call before, where it promises less than exact."""
    mixed: bool = False
    """Whether that depends on inexact chunks before it, so that a likeness must do."""
    further: Callable[[], Noise | None] = lambda: None
    """The largest noise of further draws of ``untiled``."""

    def step(self, name: str, returned: str, output: Tensor | None) -> Step:
        """Hold a result against this one."""
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


@dataclass(frozen=True)
class Call:
    """The whole VAE on one input."""

    case: Case
    x: Tensor
    """On the plain CPU."""
    right: Right
    plane: int
    """Area of the largest plane that a convolution writes, untiled."""


@dataclass(frozen=True)
class Clip:
    """A clip for the bare coder."""

    case: Case
    name: str
    chunked: Chunked
    x: Tensor
    """What the chunks are cut from, on the device."""
    right: tuple[Right, ...]
    """Chunk by chunk."""


class Stopped(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook failed, so the sequence ends here."""


@dataclass
class Player:
    """Plays a sequence, on a device that is entered and with the view placed on it."""

    stage: Stage
    view: LayoutVAE
    twin: LayoutVAE | None = None
    """The float64 twin on the plain CPU, for clips."""
    taken: list[tuple[str, str, Tensor | None, Right]] = field(default_factory=list)
    """Calls that came back: name, what was returned, as a tensor on the plain CPU, the right one.
    """
    doing: str = ""
    """The call under way."""
    failure: Failure | None = None
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    untiled_plane: int = 0
    empty: str = ""
    """Why the sequence shows nothing; empty where it does."""
    beyond_repair: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the hook promises to equal the VAE."""
        return self.stage.promise.grade == "exact"

    @property
    def steps(self) -> tuple[Step, ...]:
        """All calls that came back, held against the right results."""
        return tuple(
            right.step(name, returned, output) for name, returned, output, right in self.taken
        )

    def hooked(self, act: Callable[[Any], Any], case: Case | None = None) -> Any:
        """The result of ``act`` with the hook on. Raises `Stopped` where the hook fails."""
        trial = self.stage.attempt(self.view, act, case=case)
        self.beyond_repair += trial.beyond_repair
        self.failure = self.failure or trial.failure
        self.plane = max(self.plane, math.prod(largest_plane(trial.reading.convolutions)))
        if self.failure is not None:
            raise Stopped
        return trial.result

    def bare(self, act: Callable[[Any], Any]) -> None:
        """``act`` with the hook off; what it raises comes of what the hook has left.

        That may be an object of its own in a slot of the cache, which can do anything when read.
        """
        try:
            with limited(self.stage.seconds):
                act(self.view.run)
        except Interrupted:
            raise KeyboardInterrupt from None
        except BaseException as error:
            self.failure = failure_of(error, "run", self.stage.seconds)
            raise Stopped from None

    def call(self, name: str, run: Any, call: Call) -> None:
        """Run the whole VAE."""
        self.doing = name
        result = run(call.case.direction, self.stage.device.put(call.x))
        self.taken.append((name, returned_kind(result), self._host(result), call.right))

    def stream(self, clip: Clip) -> Stream:
        """The clip from its first chunk on, with an empty cache."""
        coder = coder_of(self.view, clip.case.direction)
        return Stream(coder, clip.chunked, clip.x, self.stage.device)

    def send(self, clip: Clip, stream: Stream, also: str = "") -> None:
        """Send the next chunk of a clip."""
        number = len(stream.sent)
        self.doing = f"chunk {number} of {clip.name}{also}"
        sent = stream.send()
        self.taken.append((self.doing, sent.returned, joined((sent,)), clip.right[number]))

    def prepared(self, call: Call) -> Call:
        """A call, with what else it takes to judge it."""
        self.untiled_plane = max(self.untiled_plane, call.plane)
        if self.exact:
            return call

        def act(run: Any) -> Tensor | None:
            return self._host(run(call.case.direction, self.stage.device.put(call.x)))

        self.doing = f"{call.case.direction} by itself"
        alone = self.hooked(act, call.case)
        return replace(call, right=replace(call.right, alone=alone))

    def clip(self, name: str, case: Case | None = None, *, mixed: bool = False) -> Clip:
        """A clip, with what every chunk of it should give; those of two names differ.

        ``mixed``: some chunks run untiled, after which an inexact hook rightly gives something
        else than by itself.
        """
        assert self.twin is not None
        case, device = case or self.stage.case, self.stage.device
        chunked = next(c.chunked for c in self.view.conventions(case.direction) if c.chunked)
        x = self.stage.bench.make_input(case)
        x = x if name == CLIP_A else x.flip(-1)
        with device.metered() as reading:
            track = follow(self.view, self.twin, case.direction, chunked, x, device)
        area = math.prod(largest_plane(reading.convolutions))
        self.untiled_plane = max(self.untiled_plane, area)
        further = cache(partial(self._further, case, chunked, x, track))
        right = [
            Right(
                _all(untiled),
                _all(truth),
                mixed=mixed and not self.exact,
                further=partial(_of_chunk, further, truth.number),
            )
            for untiled, truth in zip(track.untiled, track.truth, strict=True)
        ]
        given = self.view.coder_input(case.direction, device.put(x))
        clip = Clip(case, name, chunked, given, tuple(right))
        if self.exact or mixed:
            return clip
        self.doing = f"{name} by itself"
        sent = self.hooked(lambda _: self.stream(clip).run(), case)
        alone = zip(right, (joined((each,)) for each in sent), strict=True)
        return replace(clip, right=tuple(replace(each, alone=part) for each, part in alone))

    def _further(self, case: Case, chunked: Chunked, x: Tensor, track: Track) -> Further:
        view = self.stage.bench.anew(self.stage.case)[0]
        with open_device(case.device) as device:
            return draw_further(track, view, case.direction, chunked, x, device)

    def _host(self, result: Any) -> Tensor | None:
        if not is_plain(result):
            return None
        copied = self.stage.device.host(result)
        return copied.detach().clone() if is_plain(copied) else None


def _of_chunk(further: Callable[[], Further], number: int) -> Noise | None:
    return further().chunks.get((number, None))


CLIP_A, CLIP_B = "clip A", "clip B"


def _all(sent: Sent) -> Tensor:
    return torch.cat(sent.parts, dim=2)


def _told(tensor: Tensor) -> str:
    size = "x".join(map(str, tensor.shape))
    return f"{size} {str(tensor.dtype).removeprefix('torch.')}"
