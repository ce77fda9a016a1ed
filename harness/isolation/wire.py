"""How judge and runner talk: frames of JSON and safetensors, neither of which can execute.

What a runner sends is untrusted: lengths are bounded before anything is read, every field is
checked against its declared type, and text is made printable on arrival.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError

from vae_compat.contracts.travelling import adapter_of
from vae_compat.text import printable

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"VAEC"
HEADER = struct.Struct("<4scQQ")
"""The magic word, what the frame is, and the lengths of its JSON and of its tensors in bytes."""
MOST_JSON = 16 * 2**20
"""Bytes of JSON in a frame: a long clip with every access of its cache list takes one or two."""
MOST_TENSORS = 2 * 2**30
"""Bytes of tensors in a frame: the longest clip with all slots of its cache takes some hundred MiB.
"""
MOST_TEXT = 16_000
"""Characters of one text: a traceback has 8000."""

REAL = frozenset(
    {
        *("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"),
        *("torch.bool", "torch.uint8"),
        *("torch.int8", "torch.int16", "torch.int32", "torch.int64"),
    }
)
"""Names of dtypes that torch computes with; others are quantized, complex, or mere storage."""

T = TypeVar("T")


class Garbled(Exception):  # noqa: N818 (a fact about a runner, not a fault of the run)
    """A malformed frame, or one whose content does not match its declared type."""


class Sort(StrEnum):
    """What a frame is; one letter each."""

    ASK = "Q"
    ANSWER = "A"
    LAST = "L"
    """An answer after which the runner ends: something of the hook goes on in it."""
    BEAT = "B"
    """A stretch of the hook begins or ends."""
    REFUSED = "R"
    """Wrong use: the hook cannot be loaded, or cannot be called as its kind is."""
    BROKEN = "X"
    """The runner itself could not go on."""


@dataclass(frozen=True)
class Announced:
    """What a header announces, lengths in bytes."""

    sort: Sort
    text: int
    tensors: int


@dataclass(frozen=True)
class Told:
    """A frame that carries words and a number alone."""

    words: str = ""
    detail: str = ""
    seconds: float = 0.0


def pack(sort: Sort, message: object) -> bytes:
    """A frame with a dataclass: numbers, words, and dense tensors on the plain CPU."""
    tensors: dict[str, Tensor] = {}
    plain = adapter_of(type(message)).dump_python(message, mode="json", context=tensors)
    # Lone surrogates (a file name that is no UTF-8) pass as escapes, which any decoder takes.
    text = json.dumps(plain, ensure_ascii=True, allow_nan=False).encode("ascii")
    body = _saved(tensors) if tensors else b""
    return HEADER.pack(MAGIC, sort.encode(), len(text), len(body)) + text + body


def announced(header: bytes, most_tensors: int = MOST_TENSORS) -> Announced:
    """What a header announces. Raises `Garbled` where it is none or announces too much."""
    try:
        magic, letter, text, tensors = HEADER.unpack(header)
        sort = Sort(letter.decode("ascii"))
    except (struct.error, ValueError):
        raise Garbled("the header is none") from None
    if magic != MAGIC:
        raise Garbled("the header is none")
    if text > MOST_JSON or tensors > most_tensors:
        raise Garbled(f"{text} bytes of JSON and {tensors} bytes of tensors are too much")
    return Announced(sort, text, tensors)


def unpack(kind: type[T], text: bytes, body: bytes) -> T:
    """The dataclass in a frame. Raises `Garbled` for whatever is not as declared."""
    try:
        tensors = _loaded(body) if body else {}
        for tensor in tensors.values():
            if str(tensor.dtype) not in REAL:
                raise ValueError(f"a tensor is of {tensor.dtype}, with which nothing is computed")
        plain = _clean(json.loads(text, parse_constant=_refused))
        found: T = adapter_of(kind).validate_json(json.dumps(plain), strict=True, context=tensors)
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise Garbled(_told(error)) from None
    except SafetensorError as error:
        raise Garbled(_told(error)) from None
    return found


# Most frames have no tensor, and who sends and reads these alone needs no torch.


def _saved(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(tensors)


def _loaded(body: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(body)


def _clean(value: Any) -> Any:
    """All text in it made printable, and cut."""
    if isinstance(value, str):
        return printable(value, MOST_TEXT, lines=True)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {printable(key, MOST_TEXT, lines=True): _clean(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a number has more than 64 bits")
    return value


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return printable(f"{type(error).__name__}: {error}", 500)
