"""A dispatch mode that counts work and transfers on a real device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.device.composites import compose, is_composite
from vae_compat.device.ledger import Tally
from vae_compat.device.opcount import Count, counter_of
from vae_compat.device.threads import following_threads

aten = torch.ops.aten

Rule = Callable[[tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def counting(device_type: str) -> Iterator[Tally]:
    """Count what this thread does inside, and those that it starts; complete at the end."""
    tally = Tally()
    others: list[Tally] = []

    def followed() -> CountingMode:
        own = Tally()  # adding up is not atomic
        others.append(own)
        return CountingMode(device_type, own)

    try:
        with following_threads(followed), CountingMode(device_type, tally):
            yield tally
    finally:
        for other in others:
            tally.add(other)


class CountingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions and FLOPs on one type of device, and what crosses to and from it."""

    def __init__(self, device_type: str, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = tally
        self.device_type = device_type
        self._rules: dict[int, Rule] = {}
        self._functions: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return (
            False  # without this every operation passes one more wrapper; nothing is compiled here
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        rule = self._rules.get(id(func))
        if rule is None:
            self._functions.append(func)  # so that its id is not reused
            rule = self._rules[id(func)] = self._make_rule(func)
        return rule(args, kwargs or {})

    def _make_rule(self, func: Any) -> Rule:
        if func in (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default):
            return self._transfer(func)
        count = counter_of(func)
        if count is not None:
            return self._counted(func, count)
        if is_composite(func):
            return lambda args, kwargs: compose(self, func, args, kwargs)
        return lambda args, kwargs: func(*args, **kwargs)

    def _counted(self, func: Any, count: Count) -> Rule:
        def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            out = func(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            if first.device.type == self.device_type:
                count(self.tally, args, kwargs, out)
            return out

        return rule

    def _transfer(self, func: Any) -> Rule:
        def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            out = func(*args, **kwargs)
            if func is aten._to_copy.default:
                self._moved(args[0], out)
            elif func is aten.copy_.default:
                self._moved(args[1], args[0])
            elif args[0].device.type == self.device_type:
                self.tally.device_to_host += args[0].element_size()
            return out

        return rule

    def _moved(self, source: Tensor, target: Tensor) -> None:
        """Bytes of a copy: converted before it goes to the device, and after it came from it."""
        of, to = source.device.type, target.device.type
        if of == to:
            return
        elements = target.numel() if source.dim() else 1
        if to == self.device_type:
            self.tally.host_to_device += elements * target.element_size()
        elif of == self.device_type:
            self.tally.device_to_host += elements * source.element_size()
