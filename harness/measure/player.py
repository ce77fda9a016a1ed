"""Plays sequences of calls with a hook on: what the runner does of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vae_compat.cases import Case
from vae_compat.device import Device
from vae_compat.device.meter import largest_plane
from vae_compat.isolation.limiting import limited
from vae_compat.measure.failing import failure_of, returned_kind
from vae_compat.measure.observation import Chunked, Failure, LayoutVAE, coder_of
from vae_compat.measure.performed import Taken
from vae_compat.measure.plain import kept
from vae_compat.measure.stage import Stage
from vae_compat.measure.streams import Stream
from vae_compat.measure.tracks import joined

CLIP_A, CLIP_B = "clip A", "clip B"


@dataclass(frozen=True)
class Call:
    """The whole VAE on one input."""

    case: Case
    x: Tensor
    """On the plain CPU."""
    right: str
    """Which result is the right one."""


@dataclass(frozen=True)
class Clip:
    """A clip for the bare coder."""

    case: Case
    name: str
    chunked: Chunked
    x: Tensor
    """What the chunks are cut from, on the device."""


class Stopped(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook failed, so the sequence ends here."""


@dataclass
class Player:
    """Plays a sequence, on a device that is entered and with the view placed on it."""

    stage: Stage
    view: LayoutVAE
    device: Device
    taken: list[Taken] = field(default_factory=list)
    """Calls that came back."""
    alone: list[Taken] = field(default_factory=list)
    """What the hook gives with no call before, where it promises less than exact."""
    doing: str = ""
    """The call under way."""
    failure: Failure | None = None
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    empty: str = ""
    """Why the sequence shows nothing; empty where it does."""

    @property
    def exact(self) -> bool:
        """Whether the hook promises to equal the VAE."""
        return self.stage.promise.grade == "exact"

    def hooked(self, act: Callable[[Any], Any], case: Case | None = None) -> Any:
        """The result of ``act`` with the hook on. Raises `Stopped` where the hook fails."""
        made = self.stage.attempt(self.view, self.device, act, case=case)
        self.failure = self.failure or made.failure
        self.plane = max(self.plane, math.prod(largest_plane(made.reading.convolutions)))
        if self.failure is not None:
            raise Stopped
        return made.result

    def bare(self, act: Callable[[Any], Any]) -> None:
        """``act`` with the hook off; what it raises comes of what the hook has left.

        That may be an object of its own in a slot of the cache, which can do anything when read.
        """
        try:
            with limited(self.stage.seconds):
                act(self.view.run)
        except BaseException as error:
            self.failure = failure_of(error, "run", self.stage.seconds)
            raise Stopped from None

    def call(self, name: str, run: Any, call: Call, *, bare: bool = False) -> None:
        """Run the whole VAE."""
        self.doing = name
        result = run(call.case.direction, self.device.put(call.x))
        self.taken.append(self._taken(name, call.right, result, bare=bare))

    def stream(self, clip: Clip) -> Stream:
        """The clip from its first chunk on, with an empty cache."""
        coder = coder_of(self.view, clip.case.direction)
        return Stream(coder, clip.chunked, clip.x, self.device)

    def send(self, clip: Clip, stream: Stream, also: str = "") -> None:
        """Send the next chunk of a clip."""
        number = len(stream.sent)
        self.doing = f"chunk {number} of {clip.name}{also}"
        sent = stream.send()
        right = right_of(clip.name, number)
        output = joined((sent,))
        self.taken.append(
            Taken(name=self.doing, right=right, returned=sent.returned, output=output)
        )

    def prepare(self, call: Call) -> None:
        """Find out what a hook that is not exact gives for a call by itself."""
        if self.exact:
            return
        self.doing = f"{call.case.direction} by itself"

        def act(run: Any) -> None:
            result = run(call.case.direction, self.device.put(call.x))
            self.alone.append(self._taken(self.doing, call.right, result))

        self.hooked(act, call.case)

    def clip(self, name: str, case: Case | None = None, *, mixed: bool = False) -> Clip:
        """A clip; those of two names differ.

        ``mixed``: some chunks run untiled, after which an inexact hook rightly gives something
        else than by itself.
        """
        case = case or self.stage.case
        chunked = chunked_of(self.view, case)
        x = input_of(name, self.stage.models.make_input(case))
        given = self.view.coder_input(case.direction, self.device.put(x))
        clip = Clip(case, name, chunked, given)
        if self.exact or mixed:
            return clip
        self.doing = f"{name} by itself"
        for sent in self.hooked(lambda _: self.stream(clip).run(), case):
            right = right_of(name, sent.number)
            output = joined((sent,))
            self.alone.append(
                Taken(name=self.doing, right=right, returned=sent.returned, output=output)
            )
        return clip

    def _taken(self, name: str, right: str, result: Any, *, bare: bool = False) -> Taken:
        output, _, _ = kept(result, self.device)
        returned = returned_kind(result)
        return Taken(name=name, right=right, returned=returned, output=output, bare=bare)


def right_of(clip: str, chunk: int) -> str:
    """By what the right result of a chunk is known."""
    return f"{clip}/{chunk}"


def chunked_of(view: LayoutVAE, case: Case) -> Chunked:
    """The layout's own way to send a clip chunk by chunk."""
    return next(c.chunked for c in view.conventions(case.direction) if c.chunked)


def input_of(clip: str, x: Tensor) -> Tensor:
    """What a clip is made of: the second is the first, mirrored."""
    return x if clip == CLIP_A else x.flip(-1)
