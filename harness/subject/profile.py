"""Profiles: how a hook under test is loaded, what it claims, which failures are known.

Importing this module is cheap: torch, diffusers and pydantic are imported where they are needed.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vae_compat.contracts.cases import ESTIMATING, Case, Direction, Layout, Mode
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.matrix import is_claimed
from vae_compat.vocabulary import RANKS, Gpu

if TYPE_CHECKING:
    from vae_compat.contracts.finding import Grade
    from vae_compat.contracts.promise import Bounds, Promise


class Kind(StrEnum):
    """How a hook is put on a VAE."""

    FORWARD = "forward"
    """A class whose instance replaces the forward of an encoder or decoder."""
    VAE = "vae"
    """``entry(vae, **settings)`` switches tiling on for a whole VAE and returns an undo."""
    FUNCTION = "function"
    """``entry(vae, x, direction, **settings)`` returns the result."""
    RANKS = "ranks"
    """Like ``vae``, in each of several processes that share one VAE's work."""


class Axes(StrEnum):
    """Along which sides of a plane a hook cuts."""

    BOTH = "both"
    """Along both, into tiles."""
    HEIGHT = "height"
    """Along the height alone, into bands of rows."""
    WIDTH = "width"
    """Along the width alone, into bands of columns."""


class Cache(StrEnum):
    """What a hook says about the causal caches of a video VAE."""

    NONE = "none"
    """Nothing is claimed of causal caches."""
    FALLBACK = "fallback"
    """Causal coders run untiled: right, but nothing is saved."""
    SPLIT = "split"
    """Causal coders run in tiles, and so do their caches."""


class When(StrEnum):
    """When a hook tiles."""

    ALWAYS = "always"
    """Whatever is larger than a tile is tiled."""
    MEMORY = "memory"
    """Tiles run only where memory is short; with enough of it the result is the untiled one."""


class Coder(StrEnum):
    """Coders that are not as plain as those of most cases."""

    OFFLOADED = "offloaded"
    """Modules bring in their weights when they are called, as ComfyUI's and accelerate's do."""
    STATIC = "static"
    """Each call of a coder returns the same memory, as CUDA graphs do."""
    PATCHED = "patched"
    """Somebody else has replaced the forwards of the coder and of its convolutions."""


class Context(StrEnum):
    """Which of torch's switches against gradients is on where the host calls the hook."""

    NO_GRAD = "no_grad"
    """``torch.no_grad()``, as in diffusers' pipelines."""
    INFERENCE_MODE = "inference_mode"
    """``torch.inference_mode()``, as in ComfyUI: what is made there cannot be changed in place
    outside of it."""


CODERS_OF_HOST = {"comfyui": (Coder.OFFLOADED,)}
"""What hooks meet in hosts (comfyanonymous/ComfyUI, comfy/ops.py)."""
CONTEXT_OF_HOST = {"comfyui": Context.INFERENCE_MODE, "a1111": Context.NO_GRAD}
"""How hosts call hooks (comfyanonymous/ComfyUI, execution.py;
AUTOMATIC1111/stable-diffusion-webui, modules/processing.py)."""


HOSTS = ("comfyui", "a1111")
"""Host programs whose modules have stand-ins."""

Setting = Literal[
    "tile_size",
    "tile_overlap",
    "tile_stride",
    "tile_height",
    "tile_width",
    "temporal_tile_size",
    "temporal_overlap",
    "temporal_stride",
    "is_decoder",
    "fast_decoder",
    "fast_encoder",
    "color_fix",
    "to_gpu",
    "use_quadtree",
    "content_threshold",
    "max_depth",
    "min_tile_size",
    "group",
]
"""A keyword of the contract with which hooks are built, besides the coder."""

_MOST_BYTES = 2**20
_EMBEDDED = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class HookSpec:
    """How a hook is loaded."""

    name: str
    entry: str
    """``FILE_OR_MODULE:ATTRIBUTE``; files are relative to the folder of the profile."""
    kind: Kind
    layout: Layout
    host: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """What this hook calls keywords of the contract, where that is another name."""


@dataclass(frozen=True)
class Cost:
    """What a hook promises of its cost on a GPU, as it is counted and estimated on the CPU."""

    time_ratio: float | None = None
    """Times that of untiled, at most; ``None`` where nothing is promised."""
    gpu: Gpu = Gpu.H200
    waits_per_tile: float | None = None
    """Waits of the host for the device for each tile, at most."""
    host_memory: float | None = None
    """Times the bytes of the result that it holds on the host, at most."""


@dataclass(frozen=True)
class Claims:
    """What a hook promises. By default it claims nothing."""

    families: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ()
    modes: tuple[Mode, ...] = ()
    cache: Cache = Cache.NONE
    overlap: bool = False
    """Whether the hook takes ``tile_overlap`` or ``tile_stride``, and works with any overlap up to
    half a tile."""
    parks: bool = False
    """Whether caches that are split are offloaded between the chunks of a clip."""
    when: When = When.ALWAYS
    coders: tuple[Coder, ...] = ()
    """Coders on which it works, besides plain ones."""
    context: Context | None = None
    """``None``: either of them; most cases run under ``no_grad``."""
    cost: Cost = field(default_factory=Cost)
    axes: Axes = Axes.BOTH
    temporal: bool = False
    """Whether it cuts clips in time as well."""
    ranks: tuple[int, ...] = RANKS
    """Numbers of processes that a hook of kind ``ranks`` works with."""
    slices: bool = False
    """Whether it runs a batch item by item."""
    tile_multiple: int = 1
    """Image pixels: tile sizes that are asked for are rounded to a multiple of this."""
    passes: int = 1
    """In how many ways it cuts each plane, to average the results."""
    bounds: Bounds | None = None
    """What holds beyond the grades; ``None`` for nothing."""
    grade: Mapping[Mode, Grade] = field(default_factory=dict)
    family_grade: Mapping[str, Mapping[Mode, Grade]] = field(default_factory=dict)
    """Grades of families for which a mode promises another grade than for the others."""

    def promise(self, case: Case) -> Promise:
        """What is promised of a case (as a hook of kind ``forward``; see ``Profile.promise``)."""
        from vae_compat.contracts.promise import Promise

        default = "degraded" if case.mode in ESTIMATING else "exact"
        grades = {**self.grade, **self.family_grade.get(case.family, {})}
        grade = grades.get(case.mode, default)
        cache = self.cache if case.facts.feature_cache else Cache.NONE
        return Promise(
            claimed=is_claimed(self, case),
            grade=str(grade),
            cache=str(cache),
            overlap=self.overlap,
            parks=self.parks,
            when=str(self.when),
            coders=tuple(map(str, self.coders)),
            context=str(self.context or ""),
            time_ratio=self.cost.time_ratio,
            gpu=str(self.cost.gpu),
            waits_per_tile=self.cost.waits_per_tile,
            host_memory=self.cost.host_memory,
            axes=str(self.axes),
            temporal=self.temporal,
            ranks=self.ranks,
            slices=self.slices,
            tile_multiple=self.tile_multiple,
            passes=self.passes,
            bounds=self.bounds,
        )


@dataclass(frozen=True)
class KnownFailure:
    """Records that are expected to fail, until they pass."""

    id: str
    """``<check>[<case id>]``, with ``*`` for anything and ``?`` for one character."""
    reason: str
    link: str = ""

    def matches(self, record_id: str) -> bool:
        """Whether this is the record meant. Brackets are themselves, not character classes."""
        return _matches(self.id, record_id)


def _matches(pattern: str, text: str) -> bool:
    """Whether a text matches a pattern with ``*`` and ``?``, without backtracking.

    Each part between two stars is matched at its first occurrence. That leaves the most text for
    the others.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return len(text) == len(first) and _is_at(first, text, 0)
    *middle, last = rest
    end = len(text) - len(last)
    if end < len(first) or not _is_at(first, text, 0) or not _is_at(last, text, end):
        return False
    place = len(first)
    for part in filter(None, middle):
        found = _find(part, text, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _is_at(part: str, text: str, place: int) -> bool:
    """Whether a part without stars stands at a place."""
    there = text[place : place + len(part)]
    return len(there) == len(part) and all(
        wanted in ("?", got) for wanted, got in zip(part, there, strict=True)
    )


def _find(part: str, text: str, place: int, end: int) -> int:
    """Where a part without stars stands first, between two places; -1 for nowhere."""
    if "?" not in part:
        return text.find(part, place, end)
    return next((at for at in range(place, end - len(part) + 1) if _is_at(part, text, at)), -1)


@dataclass(frozen=True)
class Profile:
    """A hook under test, as its maintainer describes it."""

    hook: HookSpec
    claims: Claims = field(default_factory=Claims)
    known_failures: tuple[KnownFailure, ...] = ()
    folder: Path = field(default_factory=Path.cwd)
    """What file entries are relative to."""
    source: str = "the command line"
    """Where the profile was read, for messages."""

    def promise(self, case: Case) -> Promise:
        """What is promised of a case."""
        return replace(self.claims.promise(case), kind=str(self.hook.kind))


def load_profile(path: Path | str) -> Profile:
    """Read a profile. Raises ``UsageError`` for whatever is wrong with it."""
    from vae_compat.subject.schema import parse_profile  # imports pydantic

    path = Path(path)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the profile file in it.")
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"the profile {path} is no plain file; give another path.")
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"the profile {path} has more than {_MOST_BYTES:,} bytes.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no profile {path}; check the path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text, so it is no TOML profile.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the profile {path} cannot be read: {reason}.") from None
    return parse_profile(text, source=str(path), folder=path.resolve().parent)


def embedded_names(*folders: Path) -> tuple[str, ...]:
    """Names that ``load_embedded`` knows, here and in further folders of profiles."""
    return tuple(sorted({p.stem for f in (_EMBEDDED, *folders) for p in f.glob("*.toml")}))


def load_embedded(name: str, *folders: Path) -> Profile:
    """A profile that ships with the harness, or lies as ``<name>.toml`` in one of the folders."""
    for folder in (_EMBEDDED, *folders):
        path = folder / f"{name}.toml"
        if path.is_file():
            return load_profile(path)
    names = ", ".join(embedded_names(*folders))
    raise UsageError(f"there is no built-in hook {name!r}; the built-in ones are: {names}.")


def profile_from_flags(
    hook: str,
    kind: str = "forward",
    layout: str | None = None,
    host: str | None = None,
    *,
    name: str | None = None,
    families: Sequence[str] | None = None,
    directions: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    cache: str = "none",
    grade: Mapping[str, str] | None = None,
    further: Mapping[str, object] | None = None,
    comfyui: Path | None = None,
    folder: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Profile:
    """A profile for a hook that is given by flags alone.

    What isn't given is assumed in the hook's favour: every family, both directions, and every mode
    for which the hook takes the keywords (to know them the hook is loaded). ``layout`` defaults to
    ``ldm`` for kind ``forward`` and to ``diffusers`` for the others. ``further`` are other keys of
    the table ``[claims]``. Raises ``UsageError``.
    """
    from vae_compat.subject.schema import build_profile  # imports pydantic

    if layout is None:
        layout = Layout.LDM if kind == Kind.FORWARD else Layout.DIFFUSERS
    spec = {"name": name or name_of(hook), "entry": hook, "kind": kind, "layout": str(layout)}
    claims: dict[str, object] = {
        **(further or {}),
        "families": list(FAMILIES if families is None else families),
        "directions": [str(d) for d in (Direction if directions is None else directions)],
        "modes": [str(m) for m in (modes or ())],
        "cache": str(cache),
        "grade": {str(mode): str(value) for mode, value in (grade or {}).items()},
    }
    more: dict[str, object] = {"host": host, "settings": dict(settings or {})}
    hook_table = spec | {name: value for name, value in more.items() if value}
    tables = {"hook": hook_table, "claims": claims}
    folder = folder or Path.cwd()
    if modes is None:
        grades = claims.pop("grade")
        bare = build_profile(tables, source="the command line", folder=folder)
        claims["modes"] = [str(mode) for mode in _offered_modes(bare, comfyui)]
        claims["grade"] = grades
    return build_profile(tables, source="the command line", folder=folder)


def name_of(entry: str) -> str:
    """A short name for an entry: ``some/folder/tiled_vae.py:VAEHook`` -> ``tiled_vae.VAEHook``.

    It holds what a profile may use as a name: any other character becomes an underscore, and of a
    very long one the end is kept.
    """
    target, _, attribute = entry.rpartition(":")
    stem = Path(target).stem if target.endswith(".py") else target.rpartition(".")[2]
    name = f"{stem}.{attribute}" if stem else attribute
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name)[-80:]


def _offered_modes(profile: Profile, comfyui: Path | None) -> tuple[Mode, ...]:
    from vae_compat.subject.describing import described

    return described(profile, comfyui).modes
