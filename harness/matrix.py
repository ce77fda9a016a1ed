"""The matrix: the cases that follow from a profile's claims."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from typing import Any, Protocol

from vae_compat.contracts.cases import (
    ESTIMATING,
    Case,
    Direction,
    Given,
    Layout,
    Mechanism,
    Mode,
    Scale,
    Scenario,
)
from vae_compat.contracts.promise import rounded_up
from vae_compat.families import FAMILIES, Family
from vae_compat.families.installed import installed_families


class Claims(Protocol):
    """The part of a profile's claims that spans the matrix."""

    @property
    def families(self) -> Sequence[str]:
        """Names of families."""
        ...

    @property
    def directions(self) -> Sequence[str]:
        """``encode``, ``decode``."""
        ...

    @property
    def modes(self) -> Sequence[str]:
        """As in `Mode`."""
        ...

    @property
    def overlap(self) -> bool:
        """Whether the overlap of tiles can be set."""
        ...

    @property
    def temporal(self) -> bool:
        """Whether clips are cut in time as well."""
        ...

    @property
    def when(self) -> str:
        """``always``, or ``memory`` where the hook tiles only if that is short."""
        ...

    @property
    def context(self) -> str | None:
        """Under which of torch's switches the hook is called; ``None`` where any must do."""
        ...

    @property
    def tile_multiple(self) -> int:
        """Of how many image pixels the tile sizes that run are multiples."""
        ...

    @property
    def coders(self) -> Sequence[str]:
        """Coders on which it works, besides plain ones, by the name of their scenario."""
        ...


@dataclass(frozen=True)
class Geometry:
    """A plane and its tile, in latent pixels."""

    height: int
    width: int
    tile: int = 16

    def in_tiles_of(self, tile: int) -> Geometry:
        """The same in tiles of another size; its longer side grows by thrice what a tile does."""
        grown = 3 * (tile - self.tile)
        if self.height > self.width:
            return Geometry(self.height + grown, self.width, tile)
        return Geometry(self.height, self.width + grown, tile)


SIZES = {
    "multiple": Geometry(32, 48),
    "ragged": Geometry(40, 40),
    "odd": Geometry(23, 41),
    "tall": Geometry(44, 20),
    "plus_one": Geometry(17, 17),
    "small": Geometry(10, 10),
    "narrow": Geometry(44, 12),
}
"""Planes that tilings get wrong: a multiple of the tile, not a multiple, odd, not square, one pixel
over a tile, smaller than a tile, one tile wide and three high. Any hook must tile all of them
except ``plus_one`` and ``small`` (``Case.must_tile``)."""
SIZES_OF_CLIPS = SIZES | {
    "multiple": Geometry(16, 32, 8),
    "ragged": Geometry(12, 36, 8),
    "odd": Geometry(11, 37, 8),
    "tall": Geometry(36, 10, 8),
    "narrow": Geometry(36, 6, 8),
}
"""The same kinds in tiles of half the side: a third of the time, on planes where a clip costs nine
pictures. Coders of clips have no norms over the plane, whose statistics need one of some size."""

REAL_SIZE = Geometry(8, 32, 8)
"""Small, and still large enough that every published hook has to tile: 64 x 256 pixels at ratio
8, in 64-pixel tiles."""
REAL_FULL_SIZE = Geometry(32, 32, 8)
"""256 x 256 pixels at ratio 8, 64-pixel tiles: the setting of the published figures."""
REAL_CUDA_SIZE = Geometry(48, 80, 16)
"""384 x 640 pixels at ratio 8, 128-pixel tiles: what VRAM is judged by on a real GPU. Tiles with
the full receptive field around them are smaller than the plane, and untiled takes a GiB."""
PROBE_SIZE = Geometry(12, 36, 8)
"""Cut along both axes: for hooks that blend corners wrongly or cut along one axis only."""
SLIVER_SIZE = Geometry(6, 37, 8)
"""Lower than a tile, with ends narrower than an overlap of a quarter: what goes wrong there is less
than what degraded pictures may differ by, and shows where right placement leaves no error."""

CLIPS = (
    (1, Geometry(12, 32, 8)),
    (2, Geometry(12, 32, 8)),
    (5, Geometry(12, 32, 8)),
    (9, Geometry(4, 32, 8)),
    (17, Geometry(4, 32, 8)),
)
"""Latent frames, and the plane: no cache, the sentinel, and then ever more chunks with all slots
filled. The short ones are cut along both axes; what happens late in a clip shows on one as well."""
TRAINED_SIZE = Geometry(20, 40, 8)
"""160 x 320 pixels of a photograph, in 64-pixel tiles."""
TRAINED_CLIP_SIZE, TRAINED_FRAMES = Geometry(10, 40, 8), 2
"""Of a photograph that moves: trained nets cost twice what mocks do, so that clips are short."""
COHERENCE_FRAMES = 17
COHERENCE_SIZE = Geometry(4, 10, 8)
"""A clip in two tiles, for the tier recommended. With 65 image frames it is longer than the pieces
into which programs cut clips by default: 64 frames in ComfyUI, 16 in most classes of diffusers."""
ONE_TILE_SIZE = Geometry(2, 4, 8)
"""Where the same clip has nothing to cut but its time."""
TEMPORAL_CLIP = (9, COHERENCE_SIZE)
"""Longer than a time tile, and no multiple of one."""
CLIPS_OF_KIN = (2, 9)
"""Default lengths for a family if another family with the same coders runs at every length."""

SEQUENCE_SIZE = Geometry(5, 27, 4)
"""The smallest plane that must be tiled, even by hooks that cut along one axis only, whichever it
is: what one call leaves to the next does not depend on the plane."""

TWO_TILES_SIZE = Geometry(20, 40, 8)
"""Also cut by tiles of twice the size."""
OVERSIZE_SIZE = Geometry(16, 72, 8)
"""So large that tiles take less memory than the plane, cut along one axis or with full halos."""
HALF_SIZE = Geometry(8, 31, 8)
"""The shortest plane that must be tiled, in float16: mocks are so loud that its sums overflow if
they are in half precision. A CPU has no arithmetic for that dtype, and is slow where it stands
in for a GPU."""
SHIFT_SIZE = Geometry(10, 32, 8)
USAGE_SIZE = Geometry(6, 32, 8)
STRIPS = (Geometry(4, 60, 8), Geometry(60, 4, 8))
"""Low and wide, narrow and high: what cuts along one axis alone cannot cut one of them. Longer than
a tile with the widest halo, so that any tile is seen, and no default size of a published hook. With
larger tiles they grow by three times as much, as a tile of twice the size has to be seen too."""
ESTIMATE_SIZE = Geometry(128, 128, 64)
"""1024 pixels in tiles of 512, as in the measurements that the rates of GPUs are from."""
TINY_SIZE = Geometry(9, 4, 16)
"""One tile of sixteen; slivers in tiles of eight and three and in steps of six, and few tiles of
one pixel, each of which costs as much as a larger one."""

SEVERAL_FRAMES = 3
"""The third latent frame is the first whose every cache slot holds a tensor: the first finds no
cache, the second the ``Rep`` sentinel (Wan2.1, wan/modules/vae.py)."""


@dataclass(frozen=True)
class Selection:
    """What of the matrix to run; empty means all."""

    scales: frozenset[Scale] = frozenset(Scale)
    families: frozenset[str] = frozenset()
    directions: frozenset[Direction] = frozenset()
    modes: frozenset[Mode] = frozenset()

    def admits(self, case: Case) -> bool:
        """Whether a case passes the filters."""
        return (
            case.scale in self.scales
            and (not self.families or case.family in self.families)
            and (not self.directions or case.direction in self.directions)
            and (not self.modes or case.mode in self.modes)
        )


def layout_of(family: Family, layout: Layout) -> Layout:
    """The layout in which a family comes to a hook of this layout.

    ``ldm`` and ``wan`` both mean the original modules, and each family has one original: a hook
    written for ComfyUI's ``ldm`` modules meets Qwen and Wan in the ``wan`` layout.
    """
    return layout if layout is Layout.DIFFUSERS else Layout(family.coder_layout)


def generate(
    claims: Claims,
    layout: Layout,
    device: str,
    dtypes: Iterable[str],
    *,
    full: bool = False,
    unclaimed_modes: Iterable[Mode] = (),
    families: Collection[str] | None = None,
    in_ranks: bool = False,
) -> tuple[Case, ...]:
    """All cases of a profile, claimed and unclaimed, each once, in a fixed order.

    ``dtypes`` are those of the device. ``unclaimed_modes`` are modes that the hook can be asked
    for but doesn't claim; with every family and direction that is not claimed they become one
    case each, in which the hook must refuse or fall back. ``families`` are those that can be
    built, by default with the installed diffusers. ``in_ranks``: several processes share the work,
    which one GPU cannot show, and no scenario is made for.
    """
    if in_ranks and device == "cuda":
        return ()
    built = installed_families() if families is None else families
    cells = [
        (family, direction, mode)
        for family, direction, mode in product(FAMILIES, Direction, Mode)
        if family in built and (mode is not Mode.COLOR_FIX or direction is Direction.ENCODE)
    ]
    claimed = [cell for cell in cells if _claims(claims, *cell)]
    asked = {Mode(mode) for mode in claims.modes} | set(unclaimed_modes) or {Mode.EXACT}
    refusals = [cell for cell in cells if cell not in claimed and cell[2] in asked]
    ordered = tuple(sorted(dtypes, key=_DTYPE_ORDER.index))
    span = _Span(
        layout,
        device,
        ordered,
        tuple(claimed),
        full,
        _usages(claims),
        claims.temporal,
        claims.tile_multiple,
        in_ranks,
    )
    refused = (span.case(cell, SIZES["ragged"]) for cell in refusals)
    return tuple(dict.fromkeys(chain(span.all(), refused)))


def is_claimed(claims: Claims, case: Case) -> bool:
    """Whether the profile promises anything of this case."""
    return _claims(claims, case.family, case.direction, case.mode)


def _claims(claims: Claims, family: str, direction: Direction, mode: Mode) -> bool:
    return family in claims.families and direction in claims.directions and mode in claims.modes


def cost(case: Case) -> float:
    """Rough cost of a case, in arbitrary units: orders the work, decides nothing."""
    if case.scenario is Scenario.ESTIMATE:
        return WITHOUT_DATA
    weight = {Scale.REAL: 150.0, Scale.TRAINED: 2.0}.get(case.scale, 1.0)
    half = 30.0 if case.dtype == "float16" else 1.0
    area = case.height * case.width * case.facts.ratio**2 / 64
    return weight * half * area * case.batch * case.image_frames


WITHOUT_DATA = 4000.0
"""Cost of a case in which nothing is computed, however large its planes: some seconds."""
_DTYPE_ORDER = ("float32", "bfloat16", "float16")
_Cell = tuple[str, Direction, Mode]


@dataclass(frozen=True)
class _Span:
    """Everything that is the same for all cases of one profile on one device."""

    layout: Layout
    device: str
    dtypes: tuple[str, ...]
    cells: tuple[_Cell, ...]
    """Families, directions and modes that are claimed."""
    full: bool
    usages_claimed: tuple[tuple[Scenario, Geometry, str], ...]
    temporal: bool
    tile_multiple: int
    in_ranks: bool = False

    def all(self) -> Iterator[Case]:
        """All cases to run, some of them more than once."""
        yield from self.mock()
        yield from self.trained()
        yield from self.real()
        yield from self.probes()
        if self.in_ranks:
            return
        yield from self.unusual()
        yield from self.scenarios()
        if (
            self.device == "sim"
        ):  # its memory can be poisoned and limited, and it computes the same numbers
            yield from self.relations()
            yield from self.usages()
            yield from self.strips()
            yield from self.estimates()

    @cached_property
    def leading(self) -> frozenset[_Cell]:
        """Each family and direction in the first mode that is claimed."""
        first: dict[tuple[str, Direction], _Cell] = {}
        for cell in self.cells:
            first.setdefault(cell[:2], cell)
        return frozenset(first.values())

    @cached_property
    def thorough(self) -> frozenset[_Cell]:
        """The cells that run what is not for all modes: `leading`, or all in the whole matrix."""
        return frozenset(self.cells) if self.full else self.leading

    @cached_property
    def representatives(self) -> frozenset[str]:
        """One family per build."""
        return self._one_per(lambda facts: facts.build)

    @cached_property
    def lineages(self) -> frozenset[str]:
        """One family per lineage."""
        return self._one_per(lambda facts: facts.coder_layout)

    def _one_per(self, trait: Callable[[Family], object]) -> frozenset[str]:
        """The first family that is claimed of each kind; all where the whole matrix runs."""
        first: dict[object, str] = {}
        for family, _, _ in self.cells:
            first.setdefault(family if self.full else trait(FAMILIES[family]), family)
        return frozenset(first.values())

    def case(
        self,
        cell: _Cell,
        size: Geometry,
        *,
        scale: Scale = Scale.MOCK,
        batch: int = 1,
        frames: int = 1,
        dtype: str = "float32",
        mechanism: Mechanism | None = None,
        scenario: Scenario | None = None,
        given: Given | None = None,
    ) -> Case:
        family, direction, mode = cell
        return Case(
            family=family,
            scale=scale,
            layout=layout_of(FAMILIES[family], self.layout),
            direction=direction,
            mode=mode,
            height=size.height,
            width=size.width,
            tile=size.tile,
            batch=batch,
            frames=frames,
            dtype=dtype,
            device=self.device,
            mechanism=mechanism,
            scenario=scenario,
            given=given,
        )

    def mock(self) -> Iterator[Case]:
        """Every cell at mock scale: all combinations, or a covering selection.

        The selection deals variations out over the sizes, another deal for each family and
        direction, so that every size meets several. In the first family of each build mode exact
        (or what a profile claims first) runs all of it, and each further mode every second
        variation. Other families of a build have the same blocks with other numbers of channels:
        there the first mode runs every second variation, and further modes the smallest plane that
        must be tiled, which all run. The deal does not depend on the hook: modes and hooks meet on
        the same baselines.
        """
        for cell in self.cells:
            family, direction, _ = cell
            if FAMILIES[family].frame_axis and cell in self.thorough:
                yield self.case(cell, COHERENCE_SIZE, frames=COHERENCE_FRAMES)
                if family in self.representatives:
                    yield self.case(cell, ONE_TILE_SIZE, frames=COHERENCE_FRAMES)
            if "float16" in self.dtypes and cell in self.thorough:
                yield self.case(cell, HALF_SIZE, dtype="float16")
            if self.full:
                yield from self._all(cell)
                continue
            deal = FAMILIES[family].deal + list(Direction).index(direction)
            for size, turn, variation in self._dealt(family, deal):
                ranks = (cell in self.leading) + (family in self.representatives)
                if ranks == 2 or size == "narrow" or (ranks == 1 and turn % 2):
                    yield self._sized(cell, size, **variation)

    def _all(self, cell: _Cell) -> Iterator[Case]:
        frames = (1, SEVERAL_FRAMES) if FAMILIES[cell[0]].frame_axis else (1,)
        for size, batch, count, dtype in product(SIZES, (1, 2), frames, self.dtypes):
            if dtype != "float16" or self.device == "cuda" or size in _SMALL:
                yield self._sized(cell, size, batch=batch, frames=count, dtype=dtype)

    def _sized(self, cell: _Cell, size: str, frames: int = 1, **variation: Any) -> Case:
        sizes = SIZES_OF_CLIPS if frames > 1 else SIZES
        return self.case(cell, sizes[size], frames=frames, **variation)

    def _dealt(self, family: str, deal: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Each size with one variation and its turn.

        On the large sizes, every pair of a batch, a clip and a half dtype occurs, because defects
        hide where two of them combine. In the odd turns each also occurs alone.
        """
        half: dict[str, Any] = {"dtype": "bfloat16"} if "bfloat16" in self.dtypes else {}
        clip = {"frames": SEVERAL_FRAMES}
        clip = clip if FAMILIES[family].frame_axis else {}
        large = [{}, {"batch": 2} | clip, {"batch": 2} | half, clip | half]
        turns = {False: deal, True: deal}
        for size in SIZES:
            turn = turns[size in _SMALL] % len(large)
            turns[size in _SMALL] += 1
            yield size, turn, {} if size in _SMALL else large[turn]

    def real(self) -> Iterator[Case]:
        """Published configurations in the first claimed mode, or in every mode.

        On a real GPU every mode has one, for VRAM is judged there alone, and half precision too.
        """
        for cell in self.cells:
            if self.device == "cuda" and (self.full or FAMILIES[cell[0]].real_by_default):
                yield self.case(cell, REAL_CUDA_SIZE, scale=Scale.REAL)
                if "bfloat16" in self.dtypes and cell in self.thorough:
                    yield self.case(cell, REAL_CUDA_SIZE, scale=Scale.REAL, dtype="bfloat16")
            if self.full:
                yield self.case(cell, REAL_FULL_SIZE, scale=Scale.REAL)
            if self.full or (FAMILIES[cell[0]].real_by_default and cell in self.leading):
                yield self.case(cell, REAL_SIZE, scale=Scale.REAL)

    def trained(self) -> Iterator[Case]:
        """A photograph through the trained VAEs, in the first claimed mode or in every mode.

        One family a net, because further families of a net would compute the same again; the
        whole matrix has them all. Families whose nets are none of these (other numbers of latent
        channels, other blocks) have none: weights are trained for a net, and not for a lineage.
        """
        nets: dict[str, str] = {}
        for cell in self.cells:
            family = FAMILIES[cell[0]]
            if family.trained is None:
                continue
            first = nets.setdefault(family.trained.file, family.name) == family.name
            if self.full or (first and cell in self.leading):
                if family.frame_axis:
                    size, frames = TRAINED_CLIP_SIZE, TRAINED_FRAMES
                else:
                    size, frames = TRAINED_SIZE, 1
                yield self.case(cell, size, scale=Scale.TRAINED, frames=frames)

    def unusual(self) -> Iterator[Case]:
        """Inputs that other cases do not have: values, or where they lie in memory.

        What goes wrong with them is arithmetic or a call that a tensor refuses, and no matter of
        sizes or of channels, so that the smallest plane that must be tiled tells it. Of a flat
        picture the borders are what varies: the plane is large enough for them to be a small part.
        Statistics that are estimated mean nothing on planes as small as these.
        """
        first: dict[tuple[str, Direction], _Cell] = {}
        for cell in self.cells:
            if cell[0] in self.lineages and cell[2] not in ESTIMATING:
                first.setdefault(cell[:2], cell)
        for cell in first.values():
            _, direction, _ = cell
            for given in Given:
                if given is Given.LOUD and direction is Direction.ENCODE:
                    continue  # pictures end at -1 and 1
                batch = 2 if given is Given.EXPANDED else 1
                size = PROBE_SIZE if given is Given.FLAT else USAGE_SIZE
                yield self.case(cell, size, batch=batch, given=given)

    def scenarios(self) -> Iterator[Case]:
        """Several calls each, in the first claimed mode or in every mode."""
        for cell in self.cells:
            family, direction, mode = cell
            if cell in self.thorough:
                yield from self._clips(cell)
                both = all((family, way, mode) in self.cells for way in Direction)
                for scenario in _sequences(FAMILIES[family], direction, both):
                    frames = SEVERAL_FRAMES if FAMILIES[family].frame_axis else 1
                    yield self.case(cell, SEQUENCE_SIZE, scenario=scenario, frames=frames)

    def _clips(self, cell: _Cell) -> Iterator[Case]:
        """Clips of every length, or of some; one as a probe, whose caches alone can go wrong."""
        if not FAMILIES[cell[0]].feature_cache:
            return
        every = cell[0] in self.representatives
        for frames, size in CLIPS:
            if every or frames in CLIPS_OF_KIN:
                yield self.case(cell, size, frames=frames, scenario=Scenario.CLIP)
        if every:
            yield self.case(
                cell,
                CLIPS[0][1],
                scale=Scale.PROBE,
                mechanism=Mechanism.CAUSAL_CACHE,
                frames=SEVERAL_FRAMES,
                scenario=Scenario.CLIP,
            )

    def relations(self) -> Iterator[Case]:
        """Runs compared with each other, in the first claimed mode or in every mode."""
        for cell in self.cells:
            family, direction, mode = cell
            if family not in self.representatives:
                continue
            if mode is Mode.QUADTREE and (family, direction, Mode.EXACT) in self.cells:
                yield self.case(cell, PROBE_SIZE, scenario=Scenario.PARTITION)
            if cell in self.thorough:
                for scenario, size, variation in _RELATIONS:
                    yield self.case(cell, size, scenario=scenario, **variation)

    def usages(self) -> Iterator[Case]:
        """How programs use a hook."""
        for cell in self.cells:
            if cell in self.leading and cell[0] in self.representatives:
                for scenario, size, dtype in self.usages_claimed:
                    if dtype in self.dtypes:
                        yield self.case(cell, size, scenario=scenario, dtype=dtype)
                if self.temporal and FAMILIES[cell[0]].frame_axis:
                    frames, size = TEMPORAL_CLIP
                    yield self.case(cell, size, scenario=Scenario.TEMPORAL, frames=frames)

    def strips(self) -> Iterator[Case]:
        """What size of tile runs, in every family: some hooks know some classes of VAEs only."""
        for cell in self.cells:
            if cell in self.leading and cell[2] is not Mode.QUADTREE:  # tiles follow the picture
                for size in STRIPS:
                    longer = rounded_up(size.tile, self.tile_multiple, FAMILIES[cell[0]].ratio)
                    yield self.case(cell, size.in_tiles_of(longer), scenario=Scenario.STRIP)

    def estimates(self) -> Iterator[Case]:
        """What a GPU would pay for a picture of the usual size, in the dtype of pipelines."""
        dtype = "bfloat16" if "bfloat16" in self.dtypes else "float32"
        for cell in self.cells:
            family, direction, _ = cell
            usual = direction is Direction.DECODE and cell in self.leading
            if usual and family in self.representatives:
                yield self.case(
                    cell, ESTIMATE_SIZE, scale=Scale.REAL, scenario=Scenario.ESTIMATE, dtype=dtype
                )

    def probes(self) -> Iterator[Case]:
        """One mechanism each."""
        for cell in self.cells:
            family, direction, _ = cell
            if family not in self.representatives:
                continue
            for mechanism in Mechanism:
                if not applies(FAMILIES[family], mechanism, direction):
                    continue
                probe: dict[str, Any] = {"scale": Scale.PROBE, "mechanism": mechanism}
                thorough = cell in self.thorough
                if mechanism is not Mechanism.CAUSAL_CACHE:
                    yield self.case(cell, PROBE_SIZE, **probe)
                    if mechanism is Mechanism.STUB and thorough:
                        yield self.case(cell, SLIVER_SIZE, **probe)
                    continue
                if thorough:
                    yield self.case(cell, PROBE_SIZE, frames=SEVERAL_FRAMES, **probe)
                    yield self.case(cell, COHERENCE_SIZE, frames=COHERENCE_FRAMES, **probe)
                if self.full or not thorough:
                    yield self.case(cell, COHERENCE_SIZE, frames=SEVERAL_FRAMES, **probe)


_SMALL = frozenset({"plus_one", "small"})
_RELATIONS: tuple[tuple[Scenario, Geometry, dict[str, Any]], ...] = (
    (Scenario.TILE_SIZE, TWO_TILES_SIZE, {}),
    (Scenario.OVERSIZE, OVERSIZE_SIZE, {}),
    (Scenario.BATCH_SPLIT, PROBE_SIZE, {"batch": 2}),
    (Scenario.REPEAT, PROBE_SIZE, {}),
    (Scenario.POISON, PROBE_SIZE, {}),
    (Scenario.SHIFT, SHIFT_SIZE, {}),
)

_USAGES = (
    (Scenario.SETTINGS, USAGE_SIZE, "float32"),
    (Scenario.SWITCHES, USAGE_SIZE, "float32"),
    (Scenario.TINY_TILES, TINY_SIZE, "float32"),
    (Scenario.TINY_TILES, TINY_SIZE, "bfloat16"),
    (Scenario.OUT_OF_MEMORY, PROBE_SIZE, "float32"),
    (Scenario.ON_HOST, USAGE_SIZE, "float32"),
    (Scenario.OVERLAPS, USAGE_SIZE, "float32"),
    (Scenario.INFERENCE_MODE, USAGE_SIZE, "float32"),
    (Scenario.PLENTY, USAGE_SIZE, "float32"),
    (Scenario.OFFLOADED, USAGE_SIZE, "float32"),
    (Scenario.STATIC, USAGE_SIZE, "float32"),
    (Scenario.PATCHED, USAGE_SIZE, "float32"),
)


def _usages(claims: Claims) -> tuple[tuple[Scenario, Geometry, str], ...]:
    """The scenarios of use, without those for what is not claimed."""
    left = {Scenario.OFFLOADED, Scenario.STATIC, Scenario.PATCHED} - set(claims.coders)
    if not claims.overlap:
        left.add(Scenario.OVERLAPS)
    if claims.when != "memory":
        left.add(Scenario.PLENTY)
    if claims.context is not None:
        left.add(Scenario.INFERENCE_MODE)
    return tuple(usage for usage in _USAGES if usage[0] not in left)


def _sequences(family: Family, direction: Direction, both: bool) -> Iterator[Scenario]:
    """The sequences of calls of a coder; ``both``: the other direction is claimed as well."""
    yield from (Scenario.TWICE, Scenario.SIZES, Scenario.TAKEN_OFF, Scenario.INTERRUPTED)
    if family.feature_cache:
        yield from (Scenario.STREAMS, Scenario.CLEARED, Scenario.TURNS)
    if both and direction is Direction.DECODE:
        yield Scenario.BOTH_WAYS


def applies(family: Family, mechanism: Mechanism, direction: Direction) -> bool:
    """Whether a family's coder has the mechanism at all."""
    match mechanism:
        case Mechanism.GROUP_NORM:
            return any(norm.kind == "group" for norm in family.norms)
        case Mechanism.CAUSAL_CACHE:
            return family.feature_cache
        case Mechanism.DOWNSAMPLE:
            return direction is Direction.ENCODE
        case Mechanism.UPSAMPLE:
            return direction is Direction.DECODE
        case _:
            return True
