"""The hook: takes the place of a coder's forward."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from .errors import TilingError, UnknownCoderError
from .executors.bands import execute_bands
from .executors.estimate import estimated, spatial_norms
from .executors.job import Job
from .executors.run import execute
from .front_ends.call_protocol import call_protocol, check_shapes
from .front_ends.calls import Call, bound
from .front_ends.translate import translate
from .fusion.segments import BANDS, CARRY, REST, Segment, segments
from .guards import check_input, check_surroundings, uncompiled
from .nets.offloading import onloaded
from .nets.placing import lent, working_device
from .planner.bandplan import BandPlan, Budget, planned
from .planner.budget import free_memory, settled
from .planner.plan import Partition, Planner
from .planner.resident import fitting, high_bands
from .planner.tiles import quadtree
from .program.steps import Program, Shape
from .program.window import Span
from .progress import Progress, Tell, told
from .runtime.arena import Arena
from .runtime.caches import Caches, ItemCaches
from .runtime.clip import Clip
from .runtime.parked import ParkedCaches
from .runtime.planes import Plane
from .settings import bytes_of, check_choices, check_flags, check_net, check_progress, check_sizes

logger = logging.getLogger(__name__)

MOST_WINDOWS = 2
"""Bands of a slot of a feature cache that are on the device: of what it holds, and will hold."""


class VAEHook:
    """Runs a coder tile by tile, with the result of the coder.

    Install it the way published hooks are installed:

        net.original_forward = net.forward
        net.forward = VAEHook(net, tile_size=64, is_decoder=True)

    Sizes are in latent pixels for a decoder and in image pixels for an encoder.

    Args:
        net: an encoder or a decoder; its modules are called, never copied or changed.
        tile_size: side of a tile; with ``max_vram`` an upper bound, and then it may be ``None``.
        is_decoder: which of the two ``net`` is.
        fast_decoder: estimate the statistics of GroupNorms from a small copy of the latent: no
            plane is stored between the steps, and contrasts are slightly off. Coders without
            GroupNorm stay exact, and so does a GPU with room for all planes: there bands of full
            rows are as fast.
        fast_encoder: the same for an encoder.
        color_fix: for a fast encoder, estimate only before the first downsampling; without
            ``fast_encoder`` nothing is estimated, and it changes nothing.
        to_gpu: where the coder lies on the host and there is an accelerator, move it there for
            the time of a call. A coder that is on a device already stays where it is.
        use_quadtree: small tiles where there is much detail; the result is the same.
        content_threshold: how much detail a tile must have to be quartered, as a share of the
            input's standard deviation.
        max_depth: how many times a tile may be quartered.
        min_tile_size: no quarter is smaller; default a quarter of ``tile_size``.
        residency: where activations and feature caches are stored: ``host`` offloads them;
            ``device`` saves the transfers and takes memory for all of them; ``auto`` keeps planes
            on a GPU as far as ``max_vram`` or the free memory allows and has feature caches come
            and go beside the computing, and is ``host`` elsewhere.
        method: ``rest`` stores activations after each convolution, ``carry`` keeps the borders of
            tiles in line buffers where statistics allow it, ``bands`` stores planes with channels
            innermost and goes by bands of full rows, a tile wide where ``tile_size`` is given;
            ``auto`` chooses: bands for images on a GPU, unless all is offloaded.
        skip_zeros: leave out taps of causal convolutions that would meet only padding in time: a
            third of the work for a still image, and equal but for rounding.
        max_vram: bytes that a call may take on the device beyond the weights, or words such as
            ``4GiB``.
        progress: called with the number of tiles done and the number of all tiles; an exception
            from it stops the call and leaves everything as it was. ``True`` shows a bar (tqdm).

    Raises `TilingError` for settings that cannot work.
    """

    def __init__(
        self,
        net: nn.Module,
        tile_size: int | None,
        is_decoder: bool,
        fast_decoder: bool = False,
        fast_encoder: bool = False,
        color_fix: bool = False,
        to_gpu: bool = False,
        use_quadtree: bool = False,
        content_threshold: float = 0.5,
        max_depth: int = 4,
        min_tile_size: int | None = None,
        *,
        residency: str = "auto",
        method: str = "auto",
        skip_zeros: bool = False,
        max_vram: int | str | None = None,
        progress: Tell | bool | None = None,
    ) -> None:
        check_net(net)
        check_sizes(tile_size, min_tile_size)
        check_flags(
            is_decoder=is_decoder,
            fast_decoder=fast_decoder,
            fast_encoder=fast_encoder,
            color_fix=color_fix,
            to_gpu=to_gpu,
            use_quadtree=use_quadtree,
            skip_zeros=skip_zeros,
        )
        check_choices(max_depth, residency, method)
        check_progress(progress)
        budget = bytes_of(max_vram)
        if tile_size is None and budget is None:
            raise TilingError("neither tile_size nor max_vram is given: give one of them")
        self.net = net
        self.tile_size = tile_size
        self.is_decoder = is_decoder
        self.fast = fast_decoder if is_decoder else fast_encoder
        self.color_fix = color_fix and not is_decoder
        self.to_gpu = to_gpu
        self.use_quadtree = use_quadtree
        self.content_threshold = content_threshold
        self.max_depth = max_depth
        self.min_tile_size = min_tile_size
        self.residency = residency
        self.method = method
        self.skip_zeros = skip_zeros
        self.max_vram = budget
        self.progress = progress
        self.over_calls: Progress | None = None
        """Counts the tiles of all calls that a VAE makes of one of its own."""
        self.tile_is_default = False
        """Whether nobody asked for tiles of that size: then bands may be larger."""
        self.clips: dict[int, Clip] = {}
        """By thread, the clip whose chunks will come, where that is known."""
        self.reasons: set[str] = set()

    @uncompiled
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the coder's own forward would return for the same arguments.

        Tile by tile where that is known to be right, untiled otherwise.
        """
        try:
            check_surroundings(self.net, self.original())
            call = bound(self.net, args, kwargs)
            check_input(self.net, call.x)
            program = translate(self.net, self.is_decoder, call.first_chunk)
            if not self.one_tile_is_enough(program, call.x):
                with torch.no_grad(), lent(self.net, self.to_gpu), onloaded(self.net):
                    clip = self.whole_clip(call)
                    if clip is not None:
                        return self.next_chunk(clip, call)
                    return self.tiled(program, call)
        except UnknownCoderError as reason:
            self.say(str(reason))
        # Outside the handler, because its traceback would keep tensors of the attempt alive.
        return self.original()(*args, **kwargs)

    def original(self) -> Callable[..., Any]:
        """The forward that the hook replaces."""
        found = self.net.__dict__.get("original_forward")
        if found is None or found is self:
            return type(self.net).forward.__get__(self.net)  # type: ignore[no-any-return]
        return found  # type: ignore[no-any-return]

    def one_tile_is_enough(self, program: Program, x: Tensor) -> bool:
        """Whether the input fits one tile, so that the original runs instead."""
        chooses = self.use_quadtree or self.max_vram is not None
        return not chooses and max(x.shape[-2:]) <= self.side(program, x)

    def say(self, reason: str) -> None:
        """Log once why a coder is not tiled."""
        if reason not in self.reasons:
            self.reasons.add(reason)
            logger.warning("%s runs untiled: %s", type(self.net).__name__, reason)

    def tiled(self, program: Program, call: Call) -> Any:
        """Run the program on every item of the batch, and update the caller's cache and index."""
        x = call.x
        device = working_device(self.net, x)
        home = device if self.residency == "device" else torch.device("cpu")
        caches = Caches(call.feat_cache, call.feat_idx[0], home)
        caches.check(program.slots)
        shape = Shape(x.shape[1], x.shape[2] if x.dim() == 5 else None, *x.shape[-2:])
        shapes = program.shapes(shape, caches.clock)
        protocol = call_protocol(program, shapes, caches, call.final)
        program, shapes = protocol.program, shapes[: len(protocol.program.steps) + 1]
        check_shapes(program, shapes, x.dim())
        items = ItemCaches(caches, 0, x.shape[0])
        job = Job(program, shapes, device, home, items, self.skip_zeros)
        stays = self.stays_on_device(program, x, device)
        plan = self.resident_bands(job, x) if stays else None
        partition = self.on_device(job, x) if stays and plan is None else None
        if plan is not None:
            way = Way(partial(self.by_bands, plan), plan.visits)
        elif partition is None:
            way = self.way(job, x)
        else:
            way = self.by_tiles(job, partition)
            job.home = caches.home = device
            job.skip_zeros = self.skip_zeros or partition.alone
            if caches.cached:
                job.caches = items = ParkedCaches(caches, 0, x.shape[0], Arena(device))
        job.resident_limit = way.resident_limit
        try:
            result = protocol.answer(self.items(job, way, x), caches)
        finally:
            items.settle()
        caches.commit()
        if caches.cached:
            call.feat_idx[0] += protocol.moved
        return result

    def items(self, whole: Job, way: Way, x: Tensor) -> Tensor:
        """Run the program on every item of the batch."""
        batch = x.shape[0]
        out: Tensor | None = None
        with self.counting(way, batch) as visit:
            for item in range(batch):
                caches = whole.caches.of(item)
                into = None
                if out is not None and out.device == whole.device:
                    into = out[item : item + 1]
                job = replace(whole, caches=caches, visit=visit, into=into, planes={}, unstored={})
                result = way.run(job, x[item : item + 1])
                if batch == 1:
                    return result
                if out is None:
                    out = result.new_empty((batch, *result.shape[1:]))
                if into is None:
                    out[item : item + 1].copy_(result)
                del result  # so that it takes no memory while the next item runs
        assert out is not None
        return out

    @contextmanager
    def counting(self, way: Way, batch: int) -> Iterator[Callable[[], None]]:
        """What is to be called after each tile."""
        if not self.progress:
            yield lambda: None
            return
        over_calls = self.over_calls
        with told(self.progress, 1) if over_calls is None else nullcontext(over_calls) as progress:
            assert progress is not None
            counter = progress.begin(way.tiles() * batch)
            yield counter
            progress.end(counter)

    def parts(self, program: Program) -> list[Segment]:
        """The segments in which a program is run."""
        return segments(program, self.chosen(program), self.estimates(program))

    def takes_clips(self, x: Tensor) -> bool:
        """Whether a clip is run as a whole where its VAE says how many frames will come.

        That takes the rows between tiles for all frames. On a CPU chunks in small tiles are as
        fast, and stay in its caches; and who asks for a tile, and sets no budget, wants memory that
        the tile sets, however long the clip is.
        """
        chosen = self.method == "auto" and working_device(self.net, x).type == "cuda"
        chosen = chosen and self.residency != "host"
        chosen = chosen and (self.max_vram is not None or self.tile_is_default)
        if not (chosen or self.method == BANDS) or x.dim() != 5 or self.use_quadtree:
            return False
        try:
            return not translate(self.net, self.is_decoder, first_chunk=True).wraps
        except UnknownCoderError:
            return False

    @contextmanager
    def expecting(self, frames: int) -> Iterator[None]:
        """Inside, the chunks of a clip of so many frames are passed one by one, and no others.

        They are kept until the last one has come, and the clip is then run as a whole, tiles
        outside and time inside. Until then the coder returns no frames.
        """
        clip = self.clips[get_ident()] = Clip(frames)
        try:
            yield
            if clip.chunks:
                raise TilingError(
                    f"only {clip.seen} frames of {frames} came: hook the coder itself with VAEHook"
                )
        finally:
            self.clips.pop(get_ident(), None)

    def whole_clip(self, call: Call) -> Clip | None:
        """The clip that a chunk belongs to, if it is run as a whole and there is room for that."""
        clip = self.clips.get(get_ident())
        if clip is not None and clip.run is None:
            try:
                self.plan_clip(clip, call.x)
            except TilingError:
                del self.clips[get_ident()]
                return None
        return clip

    def plan_clip(self, clip: Clip, x: Tensor) -> None:
        """Find out how to run all frames, of which ``x`` is the first chunk.

        Raises `TilingError` where they do not fit.
        """
        device = working_device(self.net, x)
        program = translate(self.net, self.is_decoder, first_chunk=True)
        caches = Caches(None, 0, device, clip=True)
        shapes = program.shapes(Shape(x.shape[1], clip.frames, *x.shape[-2:]), caches.clock)
        check_shapes(program, shapes, x.dim())
        alone = clip.frames == 1
        partition = self.partition_on_device(program, shapes, x, alone=alone)
        job = Job(program, shapes, device, device, ItemCaches(caches, 0, x.shape[0]))
        job.skip_zeros = self.skip_zeros or alone
        way = self.by_tiles(job, partition)
        clip.run, clip.shape = partial(self.items, job, way), shapes[-1]

    def next_chunk(self, clip: Clip, call: Call) -> Tensor:
        """What the coder returns for a chunk: no frames, or those of the clip for its last one."""
        assert clip.run is not None
        assert clip.shape is not None
        clip.chunks.append(call.x)
        if not clip.missing:
            return clip.run(clip.whole())
        if self.over_calls is not None:
            self.over_calls.skip()
        last = clip.shape
        return call.x.new_empty((call.x.shape[0], last.channels, 0, last.height, last.width))

    def way(self, job: Job, x: Tensor) -> Way:
        """How an item is run: by bands, or by tiles."""
        program, shapes, device = job.program, job.shapes, job.device
        if self.banded(program, x, device):
            plan = self.band_plan(program, shapes, x, device)
            return Way(partial(self.by_bands, plan), plan.visits)
        side, resident_limit = self.settle(program, shapes, x)
        return self.by_tiles(job, self.partition(program, side, x), resident_limit)

    def by_tiles(self, job: Job, partition: Partition, resident_limit: float = 0.0) -> Way:
        """By tiles that run through many steps at once."""
        planner = Planner(job.program, job.shapes, partition, self.parts(job.program))
        return Way(partial(self.item, partition), planner.visits, resident_limit)

    def stays_on_device(self, program: Program, x: Tensor, device: torch.device) -> bool:
        """Whether a call has all of its planes on a GPU, and parks the slots of feature caches.

        Where statistics are estimated or none are needed, few planes are stored.
        """
        if self.method != "auto" or self.residency != "auto" or device.type != "cuda":
            return False
        few = x.dim() == 5 or bool(self.estimates(program))
        return few and not (self.use_quadtree or program.wraps)

    def resident_bands(self, job: Job, x: Tensor) -> BandPlan | None:
        """Bands for a fast call, if all of its planes stay on the device.

        To measure statistics there takes less time than to estimate them, and the result is exact.
        """
        if x.dim() != 4 or self.asked_side(job.program, x) is not None:
            return None
        try:
            plan = self.band_plan(job.program, job.shapes, x, job.device)
        except TilingError:
            return None
        return None if plan.offloaded | plan.recomputed else plan

    def on_device(self, job: Job, x: Tensor) -> Partition | None:
        """Tiles for a call whose planes stay on a GPU; ``None`` where there is no room for them."""
        windows = self.windows(job.caches.caches, job.program)
        tile = self.asked_side(job.program, x)
        budget = self.max_vram is not None
        if windows and not budget and tile and x.shape[-2] <= MOST_WINDOWS * tile:
            # Slots come and go by rows of tiles: so few rows would have all of them there.
            return None
        alone = x.dim() == 5 and x.shape[2] == 1 and windows < 2
        try:
            return self.partition_on_device(
                job.program, job.shapes, x, windows=windows, alone=alone
            )
        except TilingError:
            return None

    def partition_on_device(
        self, program: Program, shapes: list[Shape], x: Tensor, **facts: Any
    ) -> Partition:
        """Tiles of the side that was asked for, or bands, as large as there is room for.

        ``facts`` are those of `Partition`. Raises `TilingError` where there is no room.
        """
        tile = self.asked_side(program, x)
        largest = high_bands(program, shapes) if tile is None else Partition(tile, resident=True)
        largest = replace(largest, **facts)
        largest = replace(largest, converts=converts(x, largest))
        if tile is not None and self.max_vram is None:
            return largest
        limit, parts = self.limit(working_device(self.net, x)), self.parts(program)
        return fitting(program, shapes, parts, largest, limit, x.shape[0], x.element_size())

    def windows(self, caches: Caches, program: Program) -> int:
        """How many bands of a slot are on the device: of what it will hold, and of what it held."""
        if not caches.cached:
            return 0
        held = any(isinstance(caches.holds(slot), Tensor) for slot in range(program.slots))
        return MOST_WINDOWS if held else 1

    def limit(self, device: torch.device) -> float:
        """Bytes that a call may take on the device."""
        return free_memory(device) if self.max_vram is None else self.max_vram

    def asked_side(self, program: Program, x: Tensor) -> int | None:
        """The side of a tile, where somebody asked for one."""
        return None if self.tile_is_default or self.tile_size is None else self.side(program, x)

    def estimates(self, program: Program) -> set[nn.Module]:
        """Norms whose statistics are estimated."""
        return spatial_norms(program, self.color_fix) if self.fast else set()

    def banded(self, program: Program, x: Tensor, device: torch.device) -> bool:
        """Whether to go by bands of full rows.

        On a CPU tiles of any shape run equally fast, and small ones stay in its caches. A GPU
        wants few large kernels, channels innermost, and copies of one piece.
        """
        if x.dim() != 4 or self.use_quadtree or program.wraps or self.estimates(program):
            return False
        chosen = self.method == "auto" and device.type == "cuda"
        return self.method == BANDS or (chosen and self.residency != "host")

    def band_plan(
        self, program: Program, shapes: list[Shape], x: Tensor, device: torch.device
    ) -> BandPlan:
        """How many rows at a time, and which planes stay on the device."""
        width = x.element_size()
        others = (x.shape[0] - 1) * (shapes[0].elements + shapes[-1].elements) * width
        budget = Budget(self.limit(device), others, width, self.asked_side(program, x))
        residency = self.residency if self.max_vram is None else "auto"
        return planned(BandPlan(program, shapes, budget), residency)

    def by_bands(self, plan: BandPlan, job: Job, x: Tensor) -> Tensor:
        """Run the program on one item, by bands."""
        first = x.to(job.device, memory_format=torch.channels_last)
        job.planes[0] = Plane(job.shapes[0], job.device, first)
        plane = execute_bands(job, plan)
        whole = Span(0, plane.shape.height), Span(0, plane.shape.width)
        return plane.read(*whole, x.device)

    def settle(self, program: Program, shapes: list[Shape], x: Tensor) -> tuple[int, float]:
        """Side of a tile, and elements of planes that may stay resident on the device."""
        tile = self.side(program, x)
        if self.max_vram is None:
            return tile, 0.0
        parts = self.parts(program)
        width = x.element_size()
        others = (x.shape[0] - 1) * (shapes[0].elements + shapes[-1].elements) * width
        largest = Partition(tile)
        if working_device(self.net, x).type == "cuda":
            largest = replace(largest, converts=converts(x, largest))
        return settled(program, shapes, parts, largest, self.max_vram, others, width)

    def item(self, partition: Partition, job: Job, x: Tensor) -> Tensor:
        """Run the program on one item."""
        if self.estimates(job.program):
            tile = partition.tile
            if partition.bands:
                # As much of the picture as a band has, or as the tile that was asked for.
                tile = min(self.side(job.program, x), math.isqrt(tile * x.shape[-1]))
            job.given = estimated(job.program, x, tile, job.device, self.color_fix)
        if partition.innermost(clip=x.dim() == 5):
            last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
            x = x.to(memory_format=last)
        parts = segments(job.program, self.chosen(job.program), job.given)
        job.planes[0] = Plane(job.shapes[0], x.device, x)
        plane = execute(job, parts, partition)
        whole = Span(0, plane.shape.height), Span(0, plane.shape.width)
        return plane.read(*whole, x.device)

    def chosen(self, program: Program) -> str:
        """The method by which steps are run."""
        if self.use_quadtree or program.wraps:
            return REST
        return self.method if self.method in (CARRY, REST) else CARRY

    def side(self, program: Program, x: Tensor) -> int:
        """Side of a tile, in pixels of the coder's input."""
        if self.tile_size is None:
            return max(x.shape[-2:])
        return self.tile_size if self.is_decoder else max(self.tile_size // program.patch, 1)

    def partition(self, program: Program, tile: int, x: Tensor) -> Partition:
        """The partition of the plane of ``x`` into tiles of at most ``tile`` pixels a side."""
        if not self.use_quadtree:
            return Partition(tile)
        align = max(round(1 / min(program.levels)), 1)
        smallest = max(tile // 4, 1)
        if self.min_tile_size is not None:
            unit = 1 if self.is_decoder else program.patch
            smallest = min(max(self.min_tile_size // unit, 1), tile)
        cells = quadtree(
            x,
            tile,
            align=align,
            threshold=self.content_threshold,
            depth=self.max_depth,
            smallest=smallest,
        )
        return Partition(tile, cells)


def converts(x: Tensor, partition: Partition) -> bool:
    """Whether a GPU's convolutions convert tiles of ``x`` to the layout that tensor cores take.

    Those with their channels innermost have that layout.
    """
    halves = x.dtype in (torch.float16, torch.bfloat16)
    return halves and not partition.innermost(clip=x.dim() == 5)


@dataclass(frozen=True)
class Way:
    """A way of running a program on one item of a batch."""

    run: Callable[[Job, Tensor], Tensor]
    tiles: Callable[[], int]
    """In how many tiles that is done."""
    resident_limit: float = 0.0
    """Elements of planes that may stay resident on the device beside the tiles."""
