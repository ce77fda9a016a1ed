"""A clip on its way through a bare coder, one chunk at a time."""

from __future__ import annotations

import gc
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from vae_compat.contracts.coders import Chunked
from vae_compat.device import Device
from vae_compat.device.meter import Reading, largest_plane
from vae_compat.measure.caches import CacheLog, materialised, sharing, watched_cache
from vae_compat.measure.failing import returned_kind
from vae_compat.measure.placing import live_bytes
from vae_compat.measure.plain import is_plain
from vae_compat.scenarios.performed import Sent


class Stream:
    """A clip and its feature cache.

    Each call goes to the coder's forward of that moment, so a hook may be put on and taken off
    between chunks.
    """

    def __init__(
        self,
        coder: nn.Module,
        chunked: Chunked,
        x: Tensor,
        device: Device | None = None,
        *,
        collects: bool = False,
    ) -> None:
        """``x`` is what the chunks are cut from (``LayoutVAE.coder_input``), on ``device``.

        Without a device, on the plain CPU, and memory is not measured. ``collects``: cycles are
        collected before live bytes are read (a closure that refers to itself may hold a tensor for
        a while, which is no leak); the caller must have frozen the objects that existed before.
        """
        self.coder = coder
        self.chunked = chunked
        self.device = device
        self.log = CacheLog()
        self.cache = watched_cache([None] * chunked.slots(coder), self.log)
        self.left = list(chunked.cut(x))
        self.sent: list[Sent] = []
        self.plane = 0
        """Area of the largest plane that a convolution wrote."""
        self._collects = collects
        self._held = 0
        self._noted = 0

    def send(self) -> Sent:
        """Send the next chunk. Raises whatever the coder, or the hook on it, raises."""
        chunk, index = self.left.pop(0), [0]
        self.log.chunk = len(self.sent)
        try:
            with self._metered() as reading:
                result = self.chunked.call(self.coder, chunk, self.cache, index)
        finally:
            self.log.chunk = None
        accesses = tuple(self.log.accesses[self._noted :])
        self._noted = len(self.log.accesses)
        outputs = _plain_tensors(result)
        entries = list.copy(self.cache)
        seen: dict[str, Any] = {
            "number": len(self.sent),
            "frames": chunk.frames.shape[2],
            "returned": returned_kind(result),
            "parts": tuple(self._host(part) for part in outputs),
            "index": index[0] if len(index) == 1 and type(index[0]) is int else None,
            "slots": tuple(materialised(entry, self.device) for entry in entries),
            "shared": sharing(entries, {"input": chunk.frames, **_named(outputs)}),
            "accesses": accesses,
        }
        del result, outputs, entries
        self.plane = max(self.plane, math.prod(largest_plane(reading.convolutions)))
        peak, live = self._memory(reading)
        self.sent.append(Sent(**seen, peak_bytes=peak, live_bytes=live))
        return self.sent[-1]

    def run(self) -> tuple[Sent, ...]:
        """Send all that is left."""
        while self.left:
            self.send()
        return tuple(self.sent)

    def _metered(self) -> AbstractContextManager[Reading]:
        return nullcontext(Reading()) if self.device is None else self.device.metered()

    def _host(self, tensor: Tensor) -> Tensor:
        copied = tensor if self.device is None else self.device.host(tensor)
        if not is_plain(copied):
            raise TypeError("a tensor returned is not dense")
        return copied.detach().clone()

    def _memory(self, reading: Reading) -> tuple[int | None, int | None]:
        """Peak during a chunk and live bytes after it, with the outputs dropped."""
        before, peak = reading.live_before, reading.peak_bytes
        if self.device is None or before is None or peak is None:
            return None, None
        held, peak = self._held - before, peak + self._held - before
        if self._collects:
            gc.collect()
        after = live_bytes(self.device) or 0
        self._held = held + after
        return peak, self._held


def _plain_tensors(result: Any) -> list[Tensor]:
    """What a coder returned, as a list of its plain tensors."""
    several = result if type(result) is list or type(result) is tuple else [result]
    return [part for part in several if is_plain(part)]


def _named(outputs: list[Tensor]) -> dict[str, Tensor]:
    return {f"output {number}": part for number, part in enumerate(outputs)}
