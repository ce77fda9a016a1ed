"""Finds where in the code under test something happened."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import torch

_OURS = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


def calling_place() -> str:
    """File and line of the nearest frame outside of this device and of PyTorch, in words."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_OURS, _TORCH, "<")):
            return f" ({Path(name).name}, line {frame.f_lineno})"
        frame = frame.f_back
    return ""
