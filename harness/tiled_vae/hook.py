"""The hook: takes the place of a coder's forward."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .budget import settled
from .caches import Caches, ItemCaches
from .call_protocol import call_protocol, check_shapes
from .errors import TilingError, UnknownCoderError
from .estimate import estimated, spatial_norms
from .guards import check_input, check_surroundings
from .job import Job
from .offloading import onloaded
from .plan import Partition, Planner
from .planes import Plane
from .progress import Progress, Tell, told, visits
from .run import execute
from .segments import CARRY, REST, Segment, segments
from .settings import bytes_of, check_choices, check_progress, check_sizes
from .steps import Program, Shape
from .tiles import quadtree
from .translate import translate
from .window import Span

logger = logging.getLogger(__name__)


class VAEHook:
    """Runs a coder tile by tile, with the result of the coder.

    Install it the way published hooks are installed::

        net.original_forward = net.forward
        net.forward = VAEHook(net, tile_size=64, is_decoder=True)

    Sizes are in latent pixels for a decoder and in image pixels for an encoder.

    Args:
        net: an encoder or a decoder; its modules are called, never copied or changed.
        tile_size: side of a tile; with ``max_vram`` an upper bound, and then it may be ``None``.
        is_decoder: which of the two ``net`` is.
        fast_decoder: estimate the statistics of GroupNorms from a small copy of the latent: no
            plane is stored between the steps, and contrasts are slightly off. Coders without
            GroupNorm stay exact.
        fast_encoder: the same for an encoder.
        color_fix: for a fast encoder, estimate only before the first downsampling.
        to_gpu: where the coder lies on the host and there is an accelerator, move it there for
            the time of a call. A coder that is on a device already stays where it is.
        use_quadtree: small tiles where there is much detail; the result is the same.
        content_threshold: how much detail a tile must have to be quartered, as a share of the
            input's standard deviation.
        max_depth: how many times a tile may be quartered.
        min_tile_size: no quarter is smaller; default a quarter of ``tile_size``.
        residency: where activations and feature caches are stored: ``host`` offloads them;
            ``device`` saves the transfers and takes memory for all activations.
        method: ``rest`` stores activations after each convolution, ``carry`` keeps the borders of
            tiles in line buffers where statistics allow it; ``auto`` chooses.
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
        residency: str = "host",
        method: str = "auto",
        skip_zeros: bool = False,
        max_vram: int | str | None = None,
        progress: Tell | bool | None = None,
    ) -> None:
        check_sizes(tile_size, min_tile_size)
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
        self.reasons: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the coder's own forward would return for the same arguments."""
        if torch.compiler.is_dynamo_compiling():
            return self.run_apart(*args, **kwargs)
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run tile by tile where that is known to be right, untiled otherwise."""
        try:
            check_surroundings(self.net, self.original())
            call = bound(self.net, args, kwargs)
            check_input(self.net, call.x)
            program = translate(self.net, self.is_decoder, call.first_chunk)
            if not self.one_tile_is_enough(program, call.x):
                with torch.no_grad(), lent(self.net, self.to_gpu), onloaded(self.net):
                    return self.tiled(program, call)
        except UnknownCoderError as reason:
            self.say(str(reason))
        # Outside the handler, because its traceback would keep tensors of the attempt alive.
        return self.original()(*args, **kwargs)

    # Kept out of compiled graphs: Dynamo would unroll the loop over tiles.
    run_apart = torch._disable_dynamo(run)

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
        side, resident_limit = self.settle(program, shapes, x)
        partition = self.partition(program, side, x)
        batch = x.shape[0]
        out: Tensor | None = None
        with self.counting(program, shapes, partition, batch) as visit:
            for item in range(batch):
                job = Job(
                    program,
                    shapes,
                    device,
                    home,
                    ItemCaches(caches, item, batch),
                    self.skip_zeros,
                    visit=visit,
                    resident_limit=resident_limit,
                )
                tile = self.item(job, x[item : item + 1], partition)
                if batch == 1:
                    out = tile
                    break
                if out is None:
                    out = tile.new_empty((batch, *tile.shape[1:]))
                out[item : item + 1].copy_(tile)
        assert out is not None
        result = protocol.answer(out, caches)
        caches.commit()
        if caches.cached:
            call.feat_idx[0] += protocol.moved
        return result

    @contextmanager
    def counting(
        self, program: Program, shapes: list[Shape], partition: Partition, batch: int
    ) -> Iterator[Callable[[], None]]:
        """What is to be called after each tile."""
        if not self.progress:
            yield lambda: None
            return
        tiles = visits(Planner(program, shapes, partition, self.parts(program))) * batch
        over_calls = self.over_calls
        with told(self.progress, 1) if over_calls is None else nullcontext(over_calls) as progress:
            assert progress is not None
            counter = progress.begin(tiles)
            yield counter
            progress.end(counter)

    def parts(self, program: Program) -> list[Segment]:
        """The segments in which a program is run."""
        norms = spatial_norms(program, self.color_fix) if self.fast else set()
        return segments(program, self.chosen(program), norms)

    def settle(self, program: Program, shapes: list[Shape], x: Tensor) -> tuple[int, float]:
        """Side of a tile, and elements of planes that may stay resident on the device."""
        tile = self.side(program, x)
        if self.max_vram is None:
            return tile, 0.0
        parts = self.parts(program)
        width = x.element_size()
        others = (x.shape[0] - 1) * (shapes[0].elements + shapes[-1].elements) * width
        return settled(program, shapes, parts, tile, self.max_vram, others, width)

    def item(self, job: Job, x: Tensor, partition: Partition) -> Tensor:
        """Run the program on one item."""
        if self.fast:
            job.given = estimated(job.program, x, partition.tile, job.device, self.color_fix)
        parts = segments(job.program, self.chosen(job.program), job.given)
        job.planes[0] = Plane(job.shapes[0], x.device, x)
        plane = execute(job, parts, partition)
        whole = Span(0, plane.shape.height), Span(0, plane.shape.width)
        return plane.read(*whole, x.device)

    def chosen(self, program: Program) -> str:
        """The method by which steps are run."""
        if self.use_quadtree or program.wraps:
            return REST
        return CARRY if self.method == "auto" else self.method

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


@dataclass
class Call:
    """What a coder was called with."""

    x: Tensor
    feat_cache: list[Any] | None
    feat_idx: list[int]
    first_chunk: bool
    final: bool


def bound(net: nn.Module, args: Any, kwargs: Any) -> Call:
    """Arguments by name, as the coder's class would see them.

    Defaults are the class's own: a caller that gives a cache but no index shares the default
    index with the original, as it would untiled.
    """
    try:
        given = inspect.signature(type(net).forward).bind(net, *args, **kwargs)
    except TypeError as error:
        raise UnknownCoderError(f"it was called in an unknown way ({error})") from error
    given.apply_defaults()
    names = dict(given.arguments)
    positional = list(names.pop("args", ()))
    names |= names.pop("kwargs", {})
    names.pop(next(iter(names)))
    x = names.pop(next(iter(names))) if names else None
    if not isinstance(x, Tensor) or positional:
        raise UnknownCoderError("it was called without a tensor to work on")
    cache, index = names.pop("feat_cache", None), names.pop("feat_idx", None)
    first_chunk, final = bool(names.pop("first_chunk", None)), bool(names.pop("final", None))
    others = [name for name, value in names.items() if value is not None]
    if others:
        raise UnknownCoderError(f"it was called with {', '.join(others)}")
    if not isinstance(index, list):
        index = [0]
    return Call(x, cache, index, first_chunk, final)


@contextmanager
def lent(net: nn.Module, wanted: bool) -> Iterator[None]:
    """Move a coder from the host to the accelerator, if there is one, and back."""
    weights = next(net.parameters(), None)
    if not wanted or weights is None or weights.device.type != "cpu":
        yield
        return
    if not torch.cuda.is_available():
        yield
        return
    net.to(torch.device("cuda", torch.cuda.current_device()))
    try:
        yield
    finally:
        net.to("cpu")


def working_device(net: nn.Module, x: Tensor) -> torch.device:
    """Where the tiles of ``x`` are computed: on its accelerator, or on that of the coder."""
    if x.device.type != "cpu":
        return x.device
    weights = next(net.parameters(), None)
    return x.device if weights is None or weights.device.type == "meta" else weights.device
