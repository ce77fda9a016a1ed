"""Pictures of cases as figures of the page, as many as it has room for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vae_compat.reports.digest import Group
from vae_compat.reports.pictures.exhibit import Exhibit, read, with_images, worst_of
from vae_compat.text import printable

from .charts import Bar, Heat, Lines, frame_bars, heat, profile_lines

MOST_PICTURES = 3_300_000
"""Characters of all embedded pictures: with the text below, the page stays under 5 MiB."""
ALTS = {
    "untiled": "what the VAE gives untiled",
    "hook": "what the hook gives",
    "difference": "their difference in false colours",
}


@dataclass(frozen=True)
class Image:
    """A picture of a figure."""

    kind: str
    alt: str
    data: str
    """A data URI."""
    width: int
    height: int


@dataclass(frozen=True)
class Figure:
    """The pictures of a case."""

    case: str
    shows: str
    psnr: float | None
    pictures: tuple[Image, ...]
    crops: tuple[Image, ...]
    films: tuple[Image, ...]
    film: tuple[int, ...]
    height: int
    width: int
    columns: tuple[int, ...]
    """Borders of the nominal tiles, in pixels of the result."""
    rows: tuple[int, ...]
    crop: tuple[int, int, int, int] | None
    worst: tuple[int, int] | None
    full_scale: str
    amplified: str
    """Times the difference, so that full scale is 255 levels: ``64``; empty where that is less."""
    profile: Lines | None
    frames: tuple[Bar, ...]
    slots: Heat | None


@dataclass
class Pictures:
    """Embeds figures while there is room."""

    folder: Path
    left: int = MOST_PICTURES
    left_out: int = 0
    shown: dict[tuple[str, str], str] = field(default_factory=dict)
    """The group that shows a case already."""

    def worst(self, group: Group) -> Exhibit | None:
        """The exhibit of a group."""
        keys = dict.fromkeys((record.hook, record.case) for record in group.records)
        return worst_of(found for key in keys if (found := read(*key, self.folder)) is not None)

    def figure(self, exhibit: Exhibit) -> Figure | None:
        """Its figure; ``None`` where the page has no more room."""
        images = with_images(exhibit, self.folder)
        size = 4 * images.size // 3 + 1000
        if size > self.left:
            self.left_out += 1
            return None
        self.left -= size
        return _figure(images.exhibit, images.images)


def _figure(exhibit: Exhibit, data: Mapping[str, bytes]) -> Figure:
    sizes = {picture.kind: picture for picture in exhibit.pictures}

    def images(ending: str, alt: str) -> tuple[Image, ...]:
        return tuple(
            Image(
                kind=kind,
                alt=f"{words}{alt}",
                data="data:image/webp;base64," + base64.b64encode(found).decode("ascii"),
                width=sizes[kind + ending].width,
                height=sizes[kind + ending].height,
            )
            for kind, words in ALTS.items()
            if (found := data.get(kind + ending)) is not None
        )

    tile = max(exhibit.tile, 1)
    scale = exhibit.full_scale
    at = "" if exhibit.worst is None else " around y {}, x {}".format(*exhibit.worst)
    return Figure(
        case=printable(exhibit.case, 300),
        shows=printable(exhibit.shows, 300),
        psnr=exhibit.psnr,
        pictures=images("", ""),
        crops=images("_crop", f", crop{at}"),
        films=images("_film", ", frame by frame"),
        film=exhibit.film,
        height=exhibit.height,
        width=exhibit.width,
        columns=tuple(range(tile, exhibit.width, tile))[:200],
        rows=tuple(range(tile, exhibit.height, tile))[:200],
        crop=exhibit.crop,
        worst=exhibit.worst,
        full_scale=f"{scale:g}",
        amplified=f"{255 / scale:.3g}" if 0 < scale < 255 else "",
        profile=None if exhibit.profile is None else profile_lines(exhibit.profile),
        frames=frame_bars(exhibit.frames),
        slots=None if exhibit.slots is None else heat(exhibit.slots),
    )
