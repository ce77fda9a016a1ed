"""Take case ids and record ids apart, and put the latter together."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_CASE = re.compile(
    r"(?P<family>[a-z0-9]+)-(?P<scale>[a-z]+)(?:\.(?P<part>[a-z_.]+))?-(?P<layout>[a-z0-9]+)-"
    r"(?P<direction>encode|decode)-(?P<mode>[a-z_]+)-"
    r"(?P<height>\d+)x(?P<width>\d+)t(?P<tile>\d+)-b(?P<batch>\d+)-f(?P<frames>\d+)-"
    r"(?P<dtype>[a-z0-9]+)-(?P<device>[a-z0-9]+)"
)
_NUMBERS = ("height", "width", "tile", "batch", "frames")


class CaseId(NamedTuple):
    """The parts of a case id; sizes in latent pixels, frames in latent frames."""

    family: str
    scale: str
    part: str | None
    """The mechanism of a probe, a scenario, or both: ``causal_cache.clip``; or an unusual input."""
    layout: str
    direction: str
    mode: str
    height: int
    width: int
    tile: int
    batch: int
    frames: int
    dtype: str
    device: str


def record_id(check: str, case: str) -> str:
    """``parity[sd-mock-ldm-decode-...]``: what a check says of a case."""
    return f"{check}[{case}]"


def parse_case_id(text: str) -> CaseId | None:
    """Take ``sd-mock-ldm-decode-exact-40x40t16-b1-f1-float32-sim`` apart.

    A record id, ``parity[sd-mock-...]``, is taken as well. Returns ``None`` where the text is
    neither.
    """
    inner = text[text.index("[") + 1 : -1] if "[" in text and text.endswith("]") else text
    found = _CASE.fullmatch(inner)
    if found is None:
        return None
    parts: dict[str, Any] = found.groupdict()
    return CaseId(**{**parts, **{name: int(parts[name]) for name in _NUMBERS}})
