"""Planes of numbers as pictures: values, differences in false colours, crops and film strips."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
STOPS = ("000004", "3b0f70", "8c2981", "de4968", "fe9f6d", "fcfdbf")
"""Colours of a difference from none to full scale, evenly apart: of matplotlib's map ``magma``,
which grows evenly in brightness, also for readers who see no colours."""
NOT_FINITE = (0, 229, 255)
"""Colour of NaN and infinity, which no other number has."""
QUALITY = 75
"""WebP's quality for pictures that are looked at; differences are kept without loss."""


def ramp() -> Bytes:
    """The 256 colours of a difference, ``256 3``."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in STOPS])
    at = np.linspace(0, len(STOPS) - 1, 256)
    channels = [np.interp(at, range(len(STOPS)), stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def seen(levels: Floats) -> Bytes:
    """8-bit levels, ``C H W``, as a picture, ``H W 3``; one channel gives a grey one."""
    finite = np.isfinite(levels).all(axis=0)
    shown = np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round()
    picture = np.broadcast_to(shown, (3, *shown.shape[1:])) if len(shown) == 1 else shown[:3]
    made = np.moveaxis(picture, 0, -1).astype(np.uint8)
    made[~finite] = NOT_FINITE
    return made


def in_colours(moved: Floats, full_scale: float) -> Bytes:
    """A difference in 8-bit levels, ``H W``, in false colours, ``H W 3``."""
    share = np.nan_to_num(moved / full_scale, nan=0.0, posinf=1.0).clip(0, 1)
    made: Bytes = ramp()[(share * 255).round().astype(np.uint8)]
    made[~np.isfinite(moved)] = NOT_FINITE
    return made


def full_scale_of(moved: Floats) -> float:
    """A round number of levels that all but the largest half percent of a difference stay below."""
    finite = moved[np.isfinite(moved)]
    most = float(np.quantile(finite, 0.995)) if finite.size else 0.0
    if most <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(most))
    return next((step * size for step in (1, 2, 5) if step * size >= most), 10 * size)


def fitted(picture: Bytes, most: int) -> Bytes:
    """No side longer than ``most``; a smaller picture stays as it is."""
    height, width = picture.shape[:2]
    if max(height, width) <= most:
        return picture
    share = most / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def pooled(moved: Floats, most: int) -> Floats:
    """A difference no side of which is longer than ``most``: the largest of what falls together.

    A mean would hide a seam that is one pixel wide.
    """
    height, width = moved.shape
    step = -(-max(height, width) // most)
    if step <= 1:
        return moved
    padded = np.pad(moved, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    largest: Floats = blocks.max(axis=(1, 3))  # NaN stays NaN
    return largest


def row(frames: Sequence[Bytes], gap: int = 2) -> Bytes:
    """Frames of one size beside each other."""
    space = np.zeros((frames[0].shape[0], gap, 3), dtype=np.uint8)
    parts = [part for frame in frames for part in (frame, space)]
    return np.concatenate(parts[:-1], axis=1)


def encoded(picture: Bytes, *, lossless: bool = False) -> bytes:
    """The picture as WebP."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=QUALITY, lossless=lossless, method=2)
    return file.getvalue()
