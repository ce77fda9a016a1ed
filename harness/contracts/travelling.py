"""How values that JSON cannot hold are sent between judge and runner."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from torch import Tensor


class OnWire:
    """Marks a field of type ``Tensor`` so that it can be sent: ``Annotated[Tensor, OnWire()]``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        del source, handler
        return core_schema.with_info_plain_validator_function(
            _fetched,
            serialization=core_schema.plain_serializer_function_ser_schema(_stored, info_arg=True),
        )


class Pairs:
    """Marks a mapping with tuples as keys so that it can be sent.

    It is sent as pairs of key and value: ``Annotated[Mapping[K, V], Pairs()]``.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        pairs: Any = list[tuple[get_args(source)]]  # type: ignore[misc]
        return core_schema.no_info_after_validator_function(
            dict,
            handler.generate_schema(pairs),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda mapping: [[list(key), value] for key, value in mapping.items()]
            ),
        )


def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """What checks and converts values of a type: made once, which takes longer than its use."""
    return _made(kind)


@functools.cache
def _made(kind: Hashable) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    wanted: Any = kind
    return TypeAdapter(wanted)


def _stored(tensor: Tensor, info: Any) -> str:
    import torch

    name = f"t{len(info.context)}"
    # Copied, because safetensors refuses tensors that share memory.
    info.context[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return name


def _fetched(name: Any, info: Any) -> Tensor:
    tensors: Mapping[str, Tensor] = info.context
    if not isinstance(name, str) or name not in tensors:
        raise ValueError("a tensor is named that was not sent")
    return tensors[name]
