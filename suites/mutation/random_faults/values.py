"""Operators that plant a fault in a value on its way through a hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

Operator = Callable[[Any, Any], Any]
"""From a value and the value that was seen there before (``None`` at first) to a wrong one."""


def _moved(x: Tensor) -> Tensor:
    other = "cpu" if x.device.type != "cpu" else "cuda"
    return x.to(other)


def _poisoned(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1)[-1:].fill_(float("nan")) if y.is_contiguous() else y.fill_(float("nan"))
    return y


TENSOR: Mapping[str, Operator] = {
    "drop": lambda x, _: torch.zeros_like(x),
    "shift": lambda x, _: x.roll(1, -1),
    "shift rows": lambda x, _: x.roll(1, -2),
    "transpose": lambda x, _: x.transpose(-1, -2).contiguous(),
    "scale": lambda x, _: x * 1.01,
    "duplicate": lambda x, _: torch.cat([x[..., :-1], x[..., -2:-1]], -1),
    "reorder": lambda x, _: x.flip(-1),
    "stale": lambda x, old: old if _alike(x, old) else x,
    "wrong axis": lambda x, _: x.roll(1, 1),
    "wrong dtype": lambda x, _: x.to(torch.bfloat16 if x.dtype != torch.bfloat16 else torch.half),
    "rounded": lambda x, _: x.to(torch.bfloat16).to(x.dtype),
    "wrong device": lambda x, _: _moved(x),
    "off by one": lambda x, _: x[..., 1:],
    "constant": lambda x, _: torch.full_like(x, float(x.detach().double().mean())),
    "nan": lambda x, _: _poisoned(x),
}
INTEGER: Mapping[str, Operator] = {
    "off by one": lambda n, _: n + 1,
    "off by one down": lambda n, _: n - 1,
    "drop": lambda n, _: 0,
    "scale": lambda n, _: n * 2,
    "stale": lambda n, old: n if old is None else old,
    "constant": lambda n, _: 1,
}
REAL: Mapping[str, Operator] = {
    "drop": lambda f, _: 0.0,
    "scale": lambda f, _: f * 2,
    "stale": lambda f, old: f if old is None else old,
}
SWITCH: Mapping[str, Operator] = {
    "swap": lambda b, _: not b,
    "stale": lambda b, old: b if old is None else old,
}
SPAN: Mapping[str, Operator] = {
    "shift": lambda s, _: type(s)(*(n + 1 for n in s)),
    "off by one": lambda s, _: type(s)(*s[:-1], s[-1] - 1),
    "swap": lambda s, _: type(s)(*reversed(s)),
    "stale": lambda s, old: s if old is None else old,
}
SEQUENCE: Mapping[str, Operator] = {
    "drop": lambda s, _: s[:-1],
    "duplicate": lambda s, _: s[:-1] + s[:1],
    "reorder": lambda s, _: s[::-1],
    "stale": lambda s, old: s if old is None or len(old) != len(s) else old,
}
DEVICE: Mapping[str, Operator] = {
    "wrong device": lambda d, _: torch.device("cpu" if d.type != "cpu" else "cuda"),
}
CALL: Mapping[str, Operator] = {"drop": lambda *_: 0, "duplicate": lambda *_: 2}
"""For procedures: how often the call is made."""

KINDS: Mapping[str, Mapping[str, Operator]] = {
    "tensor": TENSOR,
    "integer": INTEGER,
    "real": REAL,
    "switch": SWITCH,
    "span": SPAN,
    "sequence": SEQUENCE,
    "device": DEVICE,
    "call": CALL,
}


def kind_of(value: Any) -> str | None:
    """Which operators a value takes; ``None`` for those that none is for."""
    if isinstance(value, Tensor):
        return "tensor" if value.ndim > 1 and value.shape[-1] > 1 else None
    for kind, types in (("switch", bool), ("integer", int), ("real", float)):
        if isinstance(value, types):
            return kind
    if isinstance(value, torch.device):
        return "device"
    if isinstance(value, tuple) and value and all(type(part) is int for part in value):
        return "span"
    if type(value) in (list, tuple) and len(value) > 1:
        return "sequence"
    return None


Route = tuple[int | str, ...]


def parts(value: Any, path: Route = ()) -> list[tuple[Route, Any]]:
    """A value and what it is made of, two levels deep: first and last items, fields."""
    found: list[tuple[Route, Any]] = [(path, value)]
    if len(path) == 2:
        return found
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int):
        for index in {0, len(value) - 1}:
            found += parts(value[index], (*path, index))
    elif is_dataclass(value) and not isinstance(value, type) and not path:
        for each in fields(value):
            found += parts(getattr(value, each.name), (*path, each.name))
    return found


def at(value: Any, path: Route) -> Any:
    """The part of a value at a place. Raises ``LookupError`` where there is none."""
    for step in path:
        try:
            value = getattr(value, step) if isinstance(step, str) else value[step]
        except (AttributeError, TypeError) as error:
            raise LookupError(step) from error
    return value


def put(value: Any, path: Route, part: Any) -> Any:
    """A copy of a value with another part."""
    if not path:
        return part
    step, *rest = path
    part = put(at(value, (step,)), tuple(rest), part)
    if isinstance(step, str):
        return replace(value, **{step: part})
    items = [part if index == step else item for index, item in enumerate(value)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def differs(one: Any, other: Any) -> bool:
    """Whether two values can be told apart."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return not (alike and one.device == other.device and bool((one == other).all()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(map(differs, one, other))
    return one is not other and one != other


def _alike(one: Any, other: Any) -> bool:
    return (
        isinstance(other, Tensor)
        and one.shape == other.shape
        and one.dtype == other.dtype
        and one.device == other.device
    )
