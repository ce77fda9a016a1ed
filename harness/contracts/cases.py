"""Cases, each of which is one run of a hook, and the enumerations that name their parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from vae_compat.families import FAMILIES, Family


class Scale(StrEnum):
    """Which net of a family a case runs."""

    MOCK = "mock"
    """The published architecture with few channels."""
    REAL = "real"
    """The published configuration."""
    PROBE = "probe"
    """A small net in which tiling can break one mechanism only."""
    TRAINED = "trained"
    """The published architecture with few channels, and weights that a training made."""


class Direction(StrEnum):
    """Which coder of the VAE a case runs."""

    ENCODE = "encode"
    DECODE = "decode"


class Mode(StrEnum):
    """How the hook is asked to tile."""

    EXACT = "exact"
    FAST = "fast"
    COLOR_FIX = "color_fix"
    QUADTREE = "quadtree"


ESTIMATING = frozenset({Mode.FAST, Mode.COLOR_FIX})
"""Modes that estimate statistics by design: they promise no more than ``degraded`` where the
profile doesn't say. The other modes default to ``exact``."""


class Layout(StrEnum):
    """The module names and calling conventions that a hook expects."""

    DIFFUSERS = "diffusers"
    """``AutoencoderKL`` and related classes."""
    LDM = "ldm"
    """latent-diffusion's modules (``up[i].block[j]``), as ComfyUI and the web UI have them."""
    WAN = "wan"
    """The original Wan coder, called with ``feat_cache`` and ``feat_idx``."""


class Mechanism(StrEnum):
    """The only mechanism of a probe that tiling can break."""

    STUB = "stub"
    HALO = "halo"
    GROUP_NORM = "group_norm"
    ATTENTION = "attention"
    CAUSAL_CACHE = "causal_cache"
    DOWNSAMPLE = "downsample"
    UPSAMPLE = "upsample"


class Scenario(StrEnum):
    """Several calls of one hook, which show what a single call cannot show."""

    CLIP = "clip"
    """A clip is sent through the bare coder chunk by chunk, and the feature cache is watched."""
    TWICE = "twice"
    """The same call twice."""
    SIZES = "sizes"
    """Two calls of one size, with a call of another size between them."""
    STREAMS = "streams"
    """Two clips, chunk by chunk in turn, each with a cache list of its own."""
    CLEARED = "cleared"
    """A cache list is cleared in the middle of a clip, and then serves another clip."""
    TURNS = "turns"
    """A tiled chunk after an untiled one, and the other way round."""
    TAKEN_OFF = "taken_off"
    """The hook is taken off in the middle of a clip, or between calls."""
    INTERRUPTED = "interrupted"
    """A call is interrupted in the middle of its work, and a new call follows."""
    BOTH_WAYS = "both_ways"
    """Encode and decode in turn, both with the hook on."""
    TILE_SIZE = "tile_size"
    """One input in tiles of two sizes."""
    OVERSIZE = "oversize"
    """A plane for which untiled does not have enough memory."""
    PARTITION = "partition"
    """One input, cut by a grid and by a quadtree."""
    BATCH_SPLIT = "batch_split"
    """A batch in one call, and each of its items by itself."""
    REPEAT = "repeat"
    """The same call again, and once more after a call with another input."""
    POISON = "poison"
    """Memory that is allocated and not written to holds NaN."""
    SHIFT = "shift"
    """A picture moved by a latent pixel, through the family's local probes."""
    SETTINGS = "settings"
    """A hook built with its own defaults, before and after one with other settings."""
    SWITCHES = "switches"
    """Runs without tiling: the other direction while the hook is on, and both once it is off."""
    TINY_TILES = "tiny_tiles"
    """Tiles from one latent pixel up to the whole plane."""
    OUT_OF_MEMORY = "out_of_memory"
    """Memory that runs out once, in the middle of a call."""
    STRIP = "strip"
    """A plane that is long along one axis, in tiles of two sizes."""
    ESTIMATE = "estimate"
    """The published net without data, at 1024 pixels: what a GPU would pay."""
    ON_HOST = "on_host"
    """A VAE on the CPU of a machine with a GPU."""
    OVERLAPS = "overlaps"
    """Tiles that do not overlap, and tiles that overlap by half."""
    INFERENCE_MODE = "inference_mode"
    """A call under ``torch.inference_mode()``, which other cases do not use unless it is claimed.
    """
    OFFLOADED = "offloaded"
    """A VAE whose weights are elsewhere: each module brings in its own when it is called."""
    STATIC = "static"
    """A VAE whose coders return the same memory for each call, as CUDA graphs do."""
    PATCHED = "patched"
    """A VAE in which somebody else has replaced the forwards of coders and convolutions."""
    TEMPORAL = "temporal"
    """A clip in time tiles of two sizes and overlaps, by a hook that claims to cut in time."""
    PLENTY = "plenty"
    """A hook that tiles only where memory is short has plenty of it."""


class Given(StrEnum):
    """What a single call is given, where that is no usual picture in a tensor of its own."""

    FLAT = "flat"
    """A picture of one colour, or latents that are the same everywhere."""
    LOUD = "loud"
    """Latents ten times as large as usual."""
    CHANNELS_LAST = "channels_last"
    """A tensor whose channels lie innermost in memory."""
    SLICE = "slice"
    """A window of a larger tensor, with NaN around it."""
    EXPANDED = "expanded"
    """A batch whose items are one and the same memory."""

    @property
    def usual_values(self) -> bool:
        """Whether only the place of the values in memory is another."""
        return self in (Given.CHANNELS_LAST, Given.SLICE)


@dataclass(frozen=True)
class TimeTiles:
    """How a clip is cut in time, in latent frames."""

    size: int = 8
    overlap: int = 2


TIME_TILES = TimeTiles()
"""In the proportions of ComfyUI's defaults, half as long, so that short clips are cut."""
VRAM_PIXELS = 384 * 640
"""Image pixels of a frame from which on VRAM is judged on a real GPU.

From this size on the untiled peak of a published net (a GiB and more in float32) is far above what
the libraries of a GPU allocate for themselves. On an H200 cuDNN's workspaces took 32 to 70 MiB,
which is more than all planes of a mock net.
"""


@dataclass(frozen=True)
class Case:
    """One run of a hook, or one scenario of several.

    ``height``, ``width`` and ``tile`` are in latent pixels, ``frames`` in latent frames. In encode
    direction the image is ``ratio`` times as large and has ``1 + (frames - 1) * temporal_ratio``
    frames, so that both directions of a case share one geometry.
    """

    family: str
    scale: Scale
    layout: Layout
    direction: Direction
    mode: Mode
    height: int
    width: int
    tile: int
    batch: int = 1
    frames: int = 1
    dtype: str = "float32"
    device: str = "sim"
    mechanism: Mechanism | None = None
    scenario: Scenario | None = None
    given: Given | None = None

    def __post_init__(self) -> None:
        if (self.scale is Scale.PROBE) != (self.mechanism is not None):
            raise ValueError("a mechanism belongs to scale 'probe', and to no other")

    @property
    def facts(self) -> Family:
        """The published facts of the family."""
        return FAMILIES[self.family]

    @property
    def id(self) -> str:
        """Readable and unique: ``sd-mock-ldm-decode-exact-40x40t16-b1-f1-float32-sim``.

        A probe's mechanism, a scenario and an unusual input follow the scale: ``sd-probe.halo-``,
        ``qwen-mock.clip-``, ``qwen-probe.causal_cache.clip-``, ``sd-mock.flat-``.
        """
        scale = ".".join(filter(None, (self.scale, self.mechanism, self.scenario, self.given)))
        return (
            f"{self.family}-{scale}-{self.layout}-{self.direction}-{self.mode}-"
            f"{self.height}x{self.width}t{self.tile}-b{self.batch}-f{self.frames}-"
            f"{self.dtype}-{self.device}"
        )

    @property
    def baseline_id(self) -> str:
        """Cases with the same baseline id have the same untiled result."""
        return replace(self._exact, tile=1).id

    @property
    def truth_id(self) -> str:
        """Cases with the same truth id have the same float64 truth, whatever their layout."""
        on_host = replace(self._exact, tile=1, layout=Layout.DIFFUSERS)
        return on_host.id if self.device == "cuda" else replace(on_host, device="cpu").id

    @property
    def tiles_id(self) -> str:
        """Cases with the same tiles id have the same result of plain tiles."""
        return replace(self._exact, layout=Layout.DIFFUSERS).id

    @property
    def _exact(self) -> Case:
        """A single exact call with the same values, wherever they lie in memory."""
        given = None if self.given is None or self.given.usual_values else self.given
        return replace(self, mode=Mode.EXACT, scenario=None, given=given)

    @property
    def turned(self) -> Case:
        """The same case in the other direction."""
        return replace(self, direction=next(d for d in Direction if d is not self.direction))

    @property
    def image_frames(self) -> int:
        """Frames of the image side of this case."""
        return 1 + (self.frames - 1) * self.facts.temporal_ratio

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """``B C H W``, or ``B C T H W`` where the family has a frame axis."""
        time = (self.frames,) if self.facts.frame_axis else ()
        return (self.batch, self.facts.latent_channels, *time, self.height, self.width)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``B C H W``, or ``B C T H W`` where the family has a frame axis."""
        time = (self.image_frames,) if self.facts.frame_axis else ()
        ratio = self.facts.ratio
        size = (self.height * ratio, self.width * ratio)
        return (self.batch, self.facts.image_channels, *time, *size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what the direction is given: ``latent_shape`` or ``image_shape``."""
        return self.latent_shape if self.direction is Direction.DECODE else self.image_shape

    @property
    def tile_size(self) -> int:
        """What a hook's ``tile_size`` gets: latent pixels to decode, image pixels to encode."""
        return self.tile if self.direction is Direction.DECODE else self.tile * self.facts.ratio

    @property
    def tiles(self) -> int:
        """Tiles that cover the plane of every frame without overlap."""
        return -(-self.height // self.tile) * -(-self.width // self.tile) * self.frames

    @property
    def must_tile(self) -> bool:
        """Whether a sound hook has no reason to run this size in one piece.

        Published hooks add a halo on either side of a tile and rightly pass an image that fits
        into one such padded tile to the original forward.
        """
        return max(self.height, self.width) > self.largest_untiled

    @property
    def largest_untiled(self) -> int:
        """The longest side, in latent pixels, that a sound hook may run in one piece."""
        return self.tile + 2 * self.facts.published_halo

    @property
    def vram_tells(self) -> bool:
        """Whether the peak is mainly memory of the hook, and not of the GPU's libraries.

        The simulated accelerator has no such libraries, so this holds there for every size.
        """
        pixels = self.height * self.width * self.facts.ratio**2
        large = self.scale is Scale.REAL and pixels >= VRAM_PIXELS
        return self.device != "cuda" or large

    @property
    def is_timed(self) -> bool:
        """Whether time is measured: of a single call on a real GPU, with a net large enough."""
        return self.device == "cuda" and self.scale is Scale.REAL and self.scenario is None

    @property
    def exactly_tileable(self) -> bool:
        """Whether no pixel of the result depends on anything outside of its tile.

        Any right placement of tiles then gives the VAE's own result, whatever a hook does to
        statistics, attention and borders. The probe of the causal cache looks back in time, and
        not to the sides.
        """
        return self.mechanism in (Mechanism.STUB, Mechanism.CAUSAL_CACHE)

    @property
    def fits_one_tile(self) -> bool:
        """Whether the whole plane is no larger than one tile."""
        return max(self.height, self.width) <= self.tile
