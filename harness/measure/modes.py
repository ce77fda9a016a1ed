"""Modes of PyTorch that see every call of a thread, and may be left on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import overrides
from torch.utils import _python_dispatch as dispatch
from torch.utils._device import DeviceContext

from vae_compat.measure.switches import device_context

_Stack = tuple[str, Callable[[], list[Any]], Callable[[], Any], Callable[[Any], None]]
_STACKS: tuple[_Stack, ...] = (
    (
        "function",
        overrides._get_current_function_mode_stack,
        overrides._pop_mode,
        overrides._push_mode,
    ),
    (
        "dispatch",
        dispatch._get_current_dispatch_mode_stack,
        dispatch._pop_mode,
        dispatch._push_mode,
    ),
)
"""Kind of mode, and how to read, pop and push those that are on (torch/overrides.py,
torch/utils/_python_dispatch.py)."""


class Modes:
    """The modes that are on at one moment, of functions and of dispatch.

    What ``torch.set_default_device`` leaves on is left out: it is a switch of its own.
    """

    def __init__(self) -> None:
        default = device_context()
        self._before = [_without(read(), [default]) for _, read, _, _ in _STACKS]

    def undo(self) -> tuple[str, ...]:
        """Switch off what was left on, and on what was switched off; returns both in words."""
        found: list[str] = []
        default = device_context()
        for (kind, read, pop, push), before in zip(_STACKS, self._before, strict=True):
            now = read()
            left, gone = _without(now, [*before, default]), _without(before, now)
            if left or gone:
                found += [f"{_named(kind, mode)} was left on" for mode in left]
                found += [f"{_named(kind, mode)} was switched off" for mode in gone]
                for _ in now:
                    pop()
                for mode in (*(mode for mode in now if mode is default), *before):
                    push(mode)
        return tuple(found)


def _without(modes: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Those modes that are none of the others; they are compared by identity alone."""
    return [mode for mode in modes if not any(mode is other for other in others)]


def _named(kind: str, mode: Any) -> str:
    """A mode in words; ``with torch.device(...)`` is one as well."""
    if type(mode) is DeviceContext:
        return f"a context of torch.device({str(mode.device)!r})"
    return f"{kind} mode {type(mode).__name__}"
