"""What can be seen of one case, as it lies in the folder ``pictures`` of a run."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from vae_compat.contracts.caseid import parse_case_id
from vae_compat.contracts.cases import Scale
from vae_compat.errors import UsageError
from vae_compat.reports.results import parsed_json, validated

FOLDER = "pictures"
"""In the folder of the run."""
MOST_BYTES = 2 * 2**20
"""Most bytes of one file; a larger one is none of ours."""
MOST_VALUES = 1000
"""Most values of one list in a description."""
MOST_CELLS = 4096
"""Slots by chunks."""
MOST_PIXELS = 2048
"""Side of a picture; a browser that is given a larger one needs much memory for it."""
SEEN = 48.0
"""dB of PSNR from which on a difference is less than one of 255 levels, on the whole."""
KINDS = (
    "untiled",
    "hook",
    "difference",
    "untiled_crop",
    "hook_crop",
    "difference_crop",
    "untiled_film",
    "hook_film",
    "difference_film",
)
"""What a picture may show. A film is a row of frames."""


@dataclass(frozen=True)
class Picture:
    """A picture of the result, or of a part of it."""

    kind: str
    width: int
    height: int
    """Pixels of the file, which may be fewer than those of the result."""


@dataclass(frozen=True)
class Profile:
    """Values along a line across a seam, in 8-bit levels."""

    axis: str
    """``x``: the line runs along x, across a vertical seam; ``y`` the other way."""
    start: int
    """Pixel of the result that the first value belongs to."""
    at: int
    """First pixel after the seam, or the worst pixel where no seam was found."""
    seam: bool
    channel: int
    untiled: tuple[float, ...]
    ours: tuple[float | None, ...]
    """``None`` where it is not finite."""


@dataclass(frozen=True)
class Slots:
    """Errors of a feature cache, slot by chunk."""

    names: tuple[str, ...]
    """The causal convolution of every slot."""
    ratios: tuple[tuple[float | None, ...], ...]
    """Error over the noise floor for every slot (outer) and chunk; ``None`` where there were no
    frames to compare."""
    unlike: tuple[tuple[int, int], ...] = ()
    """Slot and chunk where the hook left another kind of thing than untiled."""


@dataclass(frozen=True)
class Exhibit:
    """The pictures of one case, and the numbers that are drawn beside them."""

    hook: str
    case: str
    psnr: float | None
    """dB against the truth; ``None`` where the result is not finite or cannot be compared."""
    shows: str
    """What the pictures show: ``the decoded picture, batch item 0``."""
    height: int
    width: int
    """Size of the result, in pixels."""
    tile: int
    """Side of the nominal tile, in pixels of the result."""
    full_scale: float = 0.0
    """8-bit levels that the brightest colour of the difference stands for."""
    worst: tuple[int, int] | None = None
    """The worst pixel: y, x."""
    crop: tuple[int, int, int, int] | None = None
    """Place of the crops: y, x, height, width."""
    pictures: tuple[Picture, ...] = ()
    profile: Profile | None = None
    frames: tuple[float, ...] = ()
    """Error over floor of every frame."""
    film: tuple[int, ...] = ()
    """Frames that the films show."""
    slots: Slots | None = None

    @property
    def name(self) -> str:
        """What its files are called, without their endings."""
        return name_of(self.hook, self.case)

    @property
    def depth(self) -> Depth:
        """Sort key: what shows most comes first."""
        return depth_of(self.case, self.psnr)


class Depth(NamedTuple):
    """How little a case shows; the least is shown first."""

    unseen: bool
    """Whether nothing can be seen in 8 bits."""
    noise: bool
    """Whether the picture is not one that people know: seeded weights draw noise."""
    psnr: float
    case: str


def depth_of(case: str, psnr: float | None) -> Depth:
    """Of what can be seen a trained VAE's comes first, and then what is farthest from the truth."""
    parts = parse_case_id(case)
    noise = parts is None or parts.scale != Scale.TRAINED
    off = -math.inf if psnr is None else psnr
    return Depth(off >= SEEN, noise, off, case)


@dataclass(frozen=True)
class Shown:
    """An exhibit with its pictures."""

    exhibit: Exhibit
    images: Mapping[str, bytes] = field(repr=False)
    """WebP, by kind."""

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return sum(map(len, self.images.values()))


def name_of(hook: str, case: str) -> str:
    """File name, without ending, for a case of a hook; it holds nothing that either can choose."""
    return hashlib.sha256(f"{hook}\n{case}".encode("utf-8", "backslashreplace")).hexdigest()[:16]


def write(shown: Shown, folder: Path) -> None:
    """Write an exhibit into the folder of a run, its description last. Raises ``OSError``."""
    room = folder / FOLDER
    room.mkdir(parents=True, exist_ok=True)
    for kind, data in shown.images.items():
        _put(room / f"{shown.exhibit.name}-{kind}.webp", data)
    text = json.dumps(asdict(shown.exhibit), allow_nan=False)
    _put(room / f"{shown.exhibit.name}.json", text.encode("ascii"))


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all: a reader may look while a run goes on."""
    draft = path.with_name(f".{path.name}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def gather(source: Path, target: Path) -> None:
    """Copy the pictures of one run into the folder of another. Raises ``OSError``."""
    room = target / FOLDER
    for file in sorted((source / FOLDER).glob("*")):
        if file.suffix in (".json", ".webp") and file.is_file() and not file.is_symlink():
            room.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, room / file.name)


def remove(name: str, folder: Path) -> None:
    """Remove an exhibit. Raises ``OSError``."""
    room = folder / FOLDER
    for file in (f"{name}.json", *(f"{name}-{kind}.webp" for kind in KINDS)):
        (room / file).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove every exhibit that an earlier run has left. Raises ``OSError``."""
    room = folder / FOLDER
    if room.is_dir() and not room.is_symlink():
        for file in room.glob("*.json"):
            if len(file.stem) == len(name_of("", "")) and file.stem.isalnum():
                remove(file.stem, folder)


def read(hook: str, case: str, folder: Path) -> Exhibit | None:
    """The exhibit of a case; ``None`` where there is none, or none that can be read.

    The hook has the rights to write here too, so nothing is believed that does not look right.
    """
    file = folder / FOLDER / f"{name_of(hook, case)}.json"
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            return None
        told: Any = parsed_json(file.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not told.keys() <= {each.name for each in fields(Exhibit)}:
            return None
        found = validated(Exhibit, told, file)
    except (OSError, ValueError, RecursionError, UsageError):
        return None
    return found if (found.hook, found.case) == (hook, case) and _is_small(found) else None


def _is_small(exhibit: Exhibit) -> bool:
    """Whether it has no more of anything than those that are made here."""
    slots, profile = exhibit.slots or Slots((), ()), exhibit.profile
    lists = [exhibit.frames, exhibit.film, slots.names, slots.ratios, *slots.ratios]
    lists += [] if profile is None else [profile.untiled, profile.ours]
    named = all(picture.kind in KINDS for picture in exhibit.pictures)
    small = all(len(each) <= MOST_VALUES for each in lists)
    return named and small and sum(map(len, slots.ratios)) <= MOST_CELLS


def with_images(exhibit: Exhibit, folder: Path) -> Shown:
    """An exhibit with those of its pictures that are there and are pictures."""
    found: dict[str, bytes] = {}
    for picture in exhibit.pictures:
        data = _image(folder / FOLDER / f"{exhibit.name}-{picture.kind}.webp", picture)
        if data is not None:
            found[picture.kind] = data
    return Shown(exhibit, found)


def _image(file: Path, told: Picture) -> bytes | None:
    from PIL import Image

    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            return None
        data = file.read_bytes()
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            small = max(image.size) <= MOST_PIXELS
            return data if small and image.size == (told.width, told.height) else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def worst_of(exhibits: Iterable[Exhibit]) -> Exhibit | None:
    """The one that shows most."""
    return min(exhibits, key=lambda each: each.depth, default=None)
