"""Assembles frames from an untrusted process, piece by piece."""

from __future__ import annotations

from vae_compat.isolation import wire
from vae_compat.isolation.wire import Announced, Garbled, Sort

MOST_BEATS = 10_000
"""Attempts that one case may have: the longest sequence has some dozens."""
_SHORT = 2**20
"""Bytes of JSON in a frame that carries text only."""


class Inbox:
    """Takes incoming bytes and gives out whole frames; never holds more than one of them."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._expected: Announced | None = None
        self._beats = 0

    def take(self, part: bytes) -> list[tuple[Sort, bytes, bytes]]:
        """The frames that are complete now. Raises `Garbled` for bytes that cannot be a frame."""
        self._held += part
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def _next(self) -> tuple[Sort, bytes, bytes] | None:
        if self._expected is None:
            if len(self._held) < wire.HEADER.size:
                return None
            self._expected = self._admitted(bytes(self._held[: wire.HEADER.size]))
            del self._held[: wire.HEADER.size]
        sort, text = self._expected.sort, self._expected.text
        whole = text + self._expected.tensors
        if len(self._held) < whole:
            return None
        with memoryview(self._held) as view:
            parts = bytes(view[:text]), bytes(view[text:whole])
        del self._held[:whole]
        self._expected = None
        return sort, *parts

    def _admitted(self, header: bytes) -> Announced:
        found = wire.announced(header)
        if found.sort is Sort.BEAT:
            self._beats += 1
            if self._beats > MOST_BEATS:
                raise Garbled("it said that it began again and again")
        if found.sort not in (Sort.ANSWER, Sort.LAST) and (found.text > _SHORT or found.tensors):
            raise Garbled(f"{found.text} bytes are too much for a word")
        return found
