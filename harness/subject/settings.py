"""The keywords with which a hook is built, mode by mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import nn

from vae_compat.contracts.cases import (
    ESTIMATING,
    TIME_TILES,
    Case,
    Direction,
    Mechanism,
    Mode,
    TimeTiles,
)
from vae_compat.errors import UsageError
from vae_compat.subject.profile import HookSpec, Kind, Setting

KEYWORDS: tuple[str, ...] = ("net", *get_args(Setting))
"""Every keyword of the contract: those of the published constructor, and the overlap of tiles."""

TEMPORAL = frozenset({"temporal_tile_size", "temporal_overlap", "temporal_stride"})
SPATIAL = frozenset({"tile_overlap", "tile_stride", "tile_height", "tile_width"})
NAMED = SPATIAL | TEMPORAL
"""Keywords for entries that name them: one that takes any may pass all on to what has never heard
of an overlap."""

TUNING = (
    SPATIAL | {"tile_size", "min_tile_size"},
    TEMPORAL,
    frozenset({"content_threshold"}),
    frozenset({"max_depth"}),
)
"""Keywords that a user may leave to the hook, by those that must fit each other. The others say
what is to be done, and where."""

GROUP: ContextVar[Any] = ContextVar("group", default=None)
"""The process group of a hook of kind ``ranks``, in each of its processes."""

CONTENT_THRESHOLD = 0.03
MAX_DEPTH = 4
"""Given only to hooks without a default of their own."""


class ModeNotOffered(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook has no keyword that would switch the mode of the case on."""

    def __init__(self, mode: Mode, keyword: str, hook: str) -> None:
        super().__init__(
            f"mode {str(mode)!r} needs the keyword {keyword!r}, which {hook} does not take"
        )
        self.mode = mode
        self.keyword = keyword


@dataclass(frozen=True)
class Signature:
    """Which settings an entry takes, and how."""

    accepted: frozenset[str]
    """Keywords of the contract that it takes."""
    own_defaults: Mapping[str, Any]
    positional: tuple[str, ...]
    """Keywords that can only be given by position, in order; the coder may go by any name."""
    renamed_net: bool
    """Whether the first parameter takes the coder under another name than ``net``."""
    parameters: tuple[str, ...] = ()
    """Names of all parameters, in order, those of the contract or not."""
    own_names: Mapping[str, str] = field(default_factory=dict)
    """What the entry calls keywords of the contract, where that is another name."""

    def call(self, entry: Callable[..., Any], *leading: Any, **settings: Any) -> Any:
        """Call the entry with those settings that it takes."""
        kept = {name: value for name, value in settings.items() if name in self.accepted}
        head = [kept.pop(name) for name in self.positional if name in kept]
        if self.renamed_net:
            head.insert(0, settings["net"])
        named = {self.own_names.get(name, name): value for name, value in kept.items()}
        return entry(*leading, *head, **named)


def read_signature(spec: HookSpec, entry: Any) -> Signature:
    """What an entry takes. Raises ``UsageError`` where it cannot be called at all."""
    if not callable(entry):
        raise UsageError(
            f"{spec.entry} is {type(entry).__name__}, which cannot be called; "
            f"name the class or function that makes the hook."
        )
    if spec.kind in (Kind.VAE, Kind.RANKS) and inspect.isclass(entry):
        raise UsageError(
            f"{spec.entry} is a class, and a hook of kind {str(spec.kind)!r} is a function that "
            f"switches tiling on and returns the function that undoes it; say kind 'forward' if "
            f"the class takes the place of a coder's forward."
        )
    try:
        parameters = list(inspect.signature(entry).parameters.values())
    except (TypeError, ValueError):
        raise UsageError(
            f"the signature of {spec.entry} cannot be read; give a plain class or function."
        ) from None
    names = tuple(parameter.name for parameter in parameters)
    leading = {
        Kind.FORWARD: (),
        Kind.VAE: ("vae",),
        Kind.FUNCTION: ("vae", "x", "direction"),
        Kind.RANKS: ("vae",),
    }
    parameters = _without_leading(spec, parameters, leading[spec.kind])
    parameters = _renamed(spec, parameters)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    renamed = (
        spec.kind is Kind.FORWARD
        and bool(parameters)
        and parameters[0].kind in by_position
        and parameters[0].name not in KEYWORDS
        and all(p.name != "net" for p in parameters)
    )
    if renamed:
        parameters = parameters[1:]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind not in _VARIADIC}
    elsewhere = {"net": Kind.FORWARD, "group": Kind.RANKS}
    offered = tuple(name for name in KEYWORDS if elsewhere.get(name, spec.kind) is spec.kind)
    for name, parameter in named.items():
        if name not in offered and parameter.default is inspect.Parameter.empty:
            told = f"{spec.entry} requires {name!r}, which a hook of kind {str(spec.kind)!r} is not"
            if spec.kind is not Kind.FUNCTION and name in ("x", "direction"):
                raise UsageError(
                    f"{told} given: what takes (vae, x, direction) is of kind 'function'"
                )
            raise UsageError(
                f"{told} given; give it a default or wrap the hook (given are: "
                f"{', '.join(offered)})."
            )
    accepted = frozenset(named.keys() & set(offered))
    if open_ended:
        accepted |= set(offered) - (NAMED - spec.settings.keys())
    if renamed:
        accepted -= {"net"}
    elif spec.kind is Kind.FORWARD and "net" not in accepted:
        raise UsageError(
            f"{spec.entry} takes no coder, neither as 'net' nor as its first parameter; "
            f"check that the kind is 'forward'."
        )
    return Signature(
        accepted=accepted,
        own_defaults={
            name: parameter.default
            for name, parameter in named.items()
            if parameter.default is not inspect.Parameter.empty
        },
        positional=tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY),
        renamed_net=renamed,
        parameters=names,
        own_names=spec.settings,
    )


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _renamed(spec: HookSpec, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """The parameters under the names of the contract.

    Raises ``UsageError`` where the profile names a parameter that the entry does not have.
    """
    names = {own: name for name, own in spec.settings.items()}
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    unknown = names.keys() - {p.name for p in parameters}
    if unknown and not open_ended:
        own = min(unknown)
        raise UsageError(
            f"hook.settings says that {spec.entry} calls {names[own]!r} {own!r}, which it does not "
            f"take; it takes {', '.join(p.name for p in parameters)}."
        )
    return [p.replace(name=names.get(p.name, p.name)) for p in parameters]


def _without_leading(
    spec: HookSpec, parameters: list[inspect.Parameter], leading: tuple[str, ...]
) -> list[inspect.Parameter]:
    """Drop the parameters that are given by position, whatever they are called."""
    for name in leading:
        if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        if not parameters or parameters[0].kind in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise UsageError(
                f"{spec.entry} has no place for {name!r}; a hook of kind {str(spec.kind)!r} is "
                f"called as entry({', '.join(leading)}, **settings)."
            )
        if parameters[0].name in KEYWORDS[1:]:
            raise UsageError(
                f"{spec.entry} takes {parameters[0].name!r} where a hook of kind "
                f"{str(spec.kind)!r} is given {name!r}: is it of kind {_others(spec.kind)}?"
            )
        parameters = parameters[1:]
    return parameters


def _others(kind: Kind) -> str:
    return " or ".join(repr(str(other)) for other in Kind if other is not kind)


def needed_keywords(mode: Mode, direction: Direction) -> tuple[str, ...]:
    """Keywords without which a mode cannot be switched on."""
    fast = "fast_decoder" if direction is Direction.DECODE else "fast_encoder"
    return {
        Mode.EXACT: (),
        Mode.FAST: (fast,),
        Mode.COLOR_FIX: (fast, "color_fix"),
        Mode.QUADTREE: ("use_quadtree",),
    }[mode]


@dataclass(frozen=True)
class Units:
    """What sizes are counted in, for one kind of hook and one direction.

    That is latent pixels and frames for kind ``forward`` to decode, and those of the image for all
    else.
    """

    pixels: int
    """To a latent pixel, along one side."""
    frames: int
    """To a latent frame."""

    @classmethod
    def of(cls, kind: str, case: Case, ratio: int) -> Units:
        """Those of a case."""
        latent = kind == Kind.FORWARD and case.direction is Direction.DECODE
        return cls(1, 1) if latent else cls(ratio, case.facts.temporal_ratio)

    def tiles(self, size: int, overlap: int) -> dict[str, int]:
        """The keywords for tiles of this size and overlap, in latent pixels."""
        return {
            "tile_size": size * self.pixels,
            "tile_overlap": overlap * self.pixels,
            "tile_stride": (size - overlap) * self.pixels,
        }

    def sides(self, height: int, width: int) -> dict[str, int]:
        """The keywords for the sides of a tile, in latent pixels."""
        return {"tile_height": height * self.pixels, "tile_width": width * self.pixels}

    def time(self, tiles: TimeTiles) -> dict[str, int]:
        """The keywords for a cut in time."""
        return {
            "temporal_tile_size": tiles.size * self.frames,
            "temporal_overlap": tiles.overlap * self.frames,
            "temporal_stride": (tiles.size - tiles.overlap) * self.frames,
        }


def settings_for(
    spec: HookSpec,
    signature: Signature,
    case: Case,
    ratio: int,
    net: nn.Module | None,
    time: TimeTiles | None = None,
) -> dict[str, Any]:
    """All keywords of the contract with their values for a case.

    For sizes see `Units`. A quadtree may halve down to half a tile, for only then can it come to
    tiles no larger than ``case.tile`` on any plane. Entries that take both sides of a tile are
    given tiles that are not square where a net shows nothing but their place. ``time`` is how clips
    are cut by a hook that claims to. Raises ``ModeNotOffered``.
    """
    for keyword in needed_keywords(case.mode, case.direction):
        if keyword not in signature.accepted:
            raise ModeNotOffered(case.mode, keyword, spec.name)
    units = Units.of(spec.kind, case, ratio)
    fast = case.mode in ESTIMATING
    own = signature.own_defaults
    oblong = (
        signature.accepted >= {"tile_height", "tile_width"} and case.mechanism is Mechanism.STUB
    )
    width = case.tile * 3 // 4 if oblong else case.tile
    sizes = units.tiles(case.tile, case.tile // 4) | units.sides(case.tile, width)
    sizes["tile_stride"] = (width - width // 4) * units.pixels
    times = units.time(time or TIME_TILES)
    # Its own overlap fits its own tiles, but perhaps not these; its own cut in time may be none.
    shared = own.get("tile_overlap")
    fits = "tile_overlap" in own and not (type(shared) is int and 2 * shared > sizes["tile_size"])
    kept = {"tile_overlap"} if fits else set()
    if time is None:
        kept |= times.keys() & own.keys()
    given = {name: value for name, value in (sizes | times).items() if name not in kept}
    return given | {
        "net": net,
        "is_decoder": case.direction is Direction.DECODE,
        "fast_decoder": fast,
        "fast_encoder": fast,
        "color_fix": case.mode is Mode.COLOR_FIX,
        "to_gpu": case.device != "cpu",
        "use_quadtree": case.mode is Mode.QUADTREE,
        "content_threshold": own.get("content_threshold", CONTENT_THRESHOLD),
        "max_depth": own.get("max_depth", MAX_DEPTH),
        "min_tile_size": max(1, case.tile // 2) * units.pixels,
        "group": GROUP.get(),
    }
