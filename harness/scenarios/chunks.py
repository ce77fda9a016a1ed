"""Sequences of chunks through the bare coder: what a hook carries over from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, repeat
from typing import Any

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import Chunked, LayoutVAE, coder_of
from vae_compat.scenarios.performed import Called, Sent
from vae_compat.scenarios.stage import Player
from vae_compat.scenarios.streams import Stream
from vae_compat.scenarios.tracks import joined

CLIP_A, CLIP_B = "clip A", "clip B"


@dataclass(frozen=True)
class Clip:
    """A clip for the bare coder."""

    player: Player
    case: Case
    name: str
    chunked: Chunked
    x: Tensor
    """What the chunks are cut from, on the device."""

    def stream(self) -> Stream:
        """The clip from its first chunk on, with an empty cache."""
        player = self.player
        coder = coder_of(player.view, self.case.direction)
        return Stream(coder, self.chunked, self.x, player.device)

    def send(self, stream: Stream, also: str = "") -> None:
        """Send the next chunk."""
        player = self.player
        player.doing = f"chunk {len(stream.sent)} of {self.name}{also}"
        player.calls.append(self._called(stream.send()))

    def prepare(self) -> None:
        """Record what an inexact hook gives for the clip with no other clip before it."""
        player = self.player
        player.doing = f"{self.name} by itself"
        made = player.hooked(lambda _: self.stream().run(), self.case)
        player.alone += map(self._called, made.result)

    def _called(self, sent: Sent) -> Called:
        right = right_of(self.name, sent.number)
        what, output = self.player.doing, joined((sent,))
        return Called(what=what, right=right, returned=sent.returned, output=output)


def clip_of(player: Player, name: str, case: Case | None = None, *, mixed: bool = False) -> Clip:
    """A clip; clips with different names have different content.

    ``mixed``: some chunks run untiled, after which an inexact hook may rightly give another result
    than it gives for the clip alone.
    """
    case = case or player.case
    x = input_of(name, player.stage.models.make_input(case))
    given = player.view.coder_input(case.direction, player.device.put(x))
    clip = Clip(player, case, name, chunked_of(player.view, case), given)
    if not (player.exact or mixed):
        clip.prepare()
    return clip


def right_of(clip: str, chunk: int) -> str:
    """Identifies the right result of a chunk."""
    return f"{clip}/{chunk}"


def chunked_of(view: LayoutVAE, case: Case) -> Chunked:
    """The layout's own way to send a clip chunk by chunk."""
    return next(c.chunked for c in view.conventions(case.direction) if c.chunked)


def input_of(clip: str, x: Tensor) -> Tensor:
    """The input of a clip: the second is the first, mirrored."""
    return x if clip == CLIP_A else x.flip(-1)


def streams(player: Player) -> None:
    """Two clips, chunk by chunk in turn, each with a cache list of its own."""
    one, other = clip_of(player, CLIP_A), clip_of(player, CLIP_B)

    def act(_: Any) -> None:
        ours, theirs = one.stream(), other.stream()
        while ours.left:
            one.send(ours)
            other.send(theirs)

    player.hooked(act)


def cleared(player: Player) -> None:
    """A cache list that is cleared in the middle of a clip, and another clip in it."""
    one, other = clip_of(player, CLIP_A), clip_of(player, CLIP_B)

    def act(_: Any) -> None:
        begun, fresh = one.stream(), other.stream()
        while len(begun.left) > 1:
            one.send(begun)
        begun.cache[:] = [None] * len(begun.cache)
        fresh.cache = begun.cache
        while fresh.left:
            other.send(fresh, ", in the cleared list")

    player.hooked(act)


def turns(player: Player) -> None:
    """A tiled chunk after an untiled one, and the other way round."""
    clip = clip_of(player, CLIP_A, mixed=True)
    _alternate(clip, cycle((True, False)))
    _alternate(clip, cycle((False, True)))


def off_midway(player: Player) -> None:
    """The hook is taken off in the middle of a clip."""
    clip = clip_of(player, CLIP_A, mixed=True)
    _alternate(clip, chain((True, True), repeat(False)))


def _alternate(clip: Clip, tiled: Iterator[bool]) -> None:
    """Send a clip with the hook on for some chunks only, put on and taken off for each."""
    player, stream = clip.player, clip.stream()
    before = ""
    while stream.left:
        on = next(tiled)
        word = "tiled" if on else "untiled"
        act = _ignoring(partial(clip.send, stream, f", {word}{before}"))
        if on:
            player.hooked(act)
        else:
            player.bare(act)
        before = f", after a {word} one"


def _ignoring(send: Callable[[], None]) -> Callable[[Any], None]:
    return lambda _: send()


def in_turn(player: Player) -> None:
    """Chunks of a clip in each direction in turn, both with the hook on."""
    clips = clip_of(player, CLIP_A), clip_of(player, CLIP_B, player.case.turned)

    def act(_: Any) -> None:
        streams = [clip.stream() for clip in clips]
        while streams[0].left:
            for clip, stream in zip(clips, streams, strict=True):
                clip.send(stream, f", {clip.case.direction}")

    player.hooked_both(act)
