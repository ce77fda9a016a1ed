"""What a coder was called with, by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import UnknownCoderError


@dataclass
class Call:
    """What a coder was called with."""

    x: Tensor
    feat_cache: list[Any] | None
    feat_idx: list[int]
    first_chunk: bool
    final: bool


def bound(net: nn.Module, args: Any, kwargs: Any) -> Call:
    """Arguments by name, as the coder's class would see them.

    Defaults are the class's own: a caller that gives a cache but no index shares the default
    index with the original, as it would untiled.
    """
    try:
        given = inspect.signature(type(net).forward).bind(net, *args, **kwargs)
    except TypeError as error:
        raise UnknownCoderError(f"it was called in an unknown way ({error})") from error
    given.apply_defaults()
    names = dict(given.arguments)
    positional = list(names.pop("args", ()))
    names |= names.pop("kwargs", {})
    names.pop(next(iter(names)))
    x = names.pop(next(iter(names))) if names else None
    if not isinstance(x, Tensor) or positional:
        raise UnknownCoderError("it was called without a tensor to work on")
    cache, index = names.pop("feat_cache", None), names.pop("feat_idx", None)
    first_chunk, final = bool(names.pop("first_chunk", None)), bool(names.pop("final", None))
    others = [name for name, value in names.items() if value is not None]
    if others:
        raise UnknownCoderError(f"it was called with {', '.join(others)}")
    if not isinstance(index, list):
        index = [0]
    return Call(x, cache, index, first_chunk, final)
