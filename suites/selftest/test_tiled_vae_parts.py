"""The small parts that the reference hook is made of."""

import itertools

import pytest
import torch

from vae_compat.tiled_vae.nets.layers import Prepared
from vae_compat.tiled_vae.planner.schedule import schedule
from vae_compat.tiled_vae.planner.tiles import cuts, grid, quadtree, scaled
from vae_compat.tiled_vae.program.steps import Conv
from vae_compat.tiled_vae.program.window import Span, Window
from vae_compat.tiled_vae.runtime.statistics import Moments

WINDOWS = [
    Window(),
    Window(3, 1, 1, 1),
    Window(5, 1, 2, 2),
    Window(3, 2, 0, 1),
    Window(3, 2, 1, 1),
    Window(3, 1, 1, 1, up=2),
    Window(up=2),
    Window(2, 2),
]


def depends_on(window: Window, out: int, size: int) -> set[int]:
    """The input pixels that one output pixel depends on, counted by hand."""
    first = out * window.stride - window.before
    taps = range(first, first + window.kernel)
    return {tap // window.up for tap in taps if 0 <= tap < size * window.up}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [2, 5, 8])
def test_a_window_reaches_exactly_what_outputs_depend_on(window, size):
    length = window.length(size)
    for start, stop in itertools.combinations(range(length + 1), 2):
        reach = window.reach(Span(start, stop), size)
        wanted = set().union(*(depends_on(window, out, size) for out in range(start, stop)))
        assert set(range(*reach.source)) == wanted
        rows = reach.crop.size + sum(reach.zeros)
        assert (rows - window.kernel) // window.stride + 1 == stop - start


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [3, 8])
def test_what_is_ready_what_is_demanded_and_what_is_kept_agree(window, size):
    length = window.length(size)
    for have in range(size + 1):
        done = window.ready(have, size)
        for out in range(length):
            wanted = depends_on(window, out, size)
            fits = have >= size or max(wanted) < have
            touches_end = out * window.stride - window.before + window.kernel > size * window.up
            assert (out < done) == (fits and (have >= size or not touches_end))
        if done < length:
            later = set().union(*(depends_on(window, out, size) for out in range(done, length)))
            assert window.oldest(done, size) <= min(later)
    for stop in range(1, length):
        demanded = window.demand(stop, size)
        assert set().union(*(depends_on(window, o, size) for o in range(stop))) <= set(
            range(demanded)
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_merged_moments_are_those_of_the_plane(dtype, layout):
    plane = torch.randn(2, 34, 17, 23, dtype=torch.float64) * 3 + 100
    plane[:, :, 5:] += 7
    plane = plane.to(dtype)
    moments = Moments(17)
    for rows, cols in grid(17, 23, 5):
        moments.add(plane[..., slice(*rows), slice(*cols)].contiguous(memory_format=layout))
    mean, variance = moments.summary()
    groups = plane.double().reshape(2, 17, -1)
    close = {"rtol": 1e-5, "atol": 0} if dtype != torch.float64 else {}
    torch.testing.assert_close(mean, groups.mean(-1), **close)
    torch.testing.assert_close(variance, groups.var(-1, correction=0), **close)


def test_moments_of_one_value_are_that_value():
    moments = Moments(2)
    for size in (5, 5, 3):
        moments.add(torch.full((1, 4, size, size), 7.0))
        mean, variance = moments.summary()
    assert mean.tolist() == [[7.0, 7.0]]
    assert variance.tolist() == [[0.0, 0.0]]


def test_moments_of_nothing_are_an_error():
    with pytest.raises(RuntimeError, match="before any tile"):
        Moments(1).summary()


def covered(cells, height, width):
    count = torch.zeros(height, width)
    for rows, cols in cells:
        count[slice(*rows), slice(*cols)] += 1
    return count


@pytest.mark.parametrize("size", [1, 5, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("tile", [1, 3, 16, 64, 65])
def test_cuts_are_even_and_no_larger_than_the_tile(size, tile):
    borders = cuts(size, tile)
    parts = [stop - start for start, stop in itertools.pairwise(borders)]
    assert sum(parts) == size
    assert len(parts) == -(-size // tile)
    assert 0 < min(parts) <= max(parts) <= tile


@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 91), (9, 130), (8, 8)])
@pytest.mark.parametrize(("align", "smallest"), [(1, 4), (8, 16), (8, 8)])
@pytest.mark.parametrize("threshold", [0.0, 0.8, 99.0])
def test_a_quadtree_covers_once_aligned_and_never_below_its_smallest(
    height, width, align, smallest, threshold
):
    content = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    content[..., : height // 2, :] *= 0.1
    cells = quadtree(content, 32, align=align, threshold=threshold, depth=3, smallest=smallest)
    assert (covered(cells, height, width) == 1).all()
    for spans, end in (({r for r, _ in cells}, height), ({c for _, c in cells}, width)):
        for span in spans:
            assert span.start % align == 0
            assert span.stop % align == 0 or span.stop == end
            assert span.size >= min(smallest, end) - (align - 1 if span.stop == end else 0)


def test_a_quadtree_is_fine_where_there_is_much_to_see_and_honours_its_depth():
    content = torch.zeros(1, 3, 64, 64)
    content[..., :32, :32] = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    deep = quadtree(content, 64, align=1, threshold=0.5, depth=3, smallest=4)
    assert min(rows.size for rows, _ in deep) == 8
    flat = [cell for cell in deep if cell[0].start >= 32]
    assert all(rows.size == 32 for rows, _ in flat)
    assert len(quadtree(content, 64, align=1, threshold=0.5, depth=0, smallest=4)) == 1
    assert len(quadtree(content, 64, align=1, threshold=0.5, depth=1, smallest=4)) == 4


@pytest.mark.parametrize(
    ("old", "new"), [((13, 9), (104, 72)), ((104, 72), (13, 9)), ((61, 75), (7, 9))]
)
def test_a_partition_stays_one_on_another_plane(old, new):
    cells = scaled(grid(*old, 8), old, new)
    assert (covered(cells, *new) == 1).all()


def chain(*windows: Window) -> list[Conv]:
    return [
        Conv((number,), number + 1, torch.nn.Identity(), window, window, 1)
        for number, window in enumerate(windows)
    ]


@pytest.mark.parametrize("demand", [True, False])
@pytest.mark.parametrize("windows", [WINDOWS[1:3], [WINDOWS[3], WINDOWS[1]], [WINDOWS[5]]])
def test_borders_never_promise_what_has_not_arrived(demand, windows):
    steps = chain(*windows)
    sizes = [12]
    for window in windows:
        sizes.append(window.length(sizes[-1]))
    given = cuts(sizes[-1] if demand else 12, 4)
    borders = schedule(
        steps, len(windows), given, demand, lambda value: sizes[value], lambda step: step.rows
    )
    for value, size in enumerate(sizes):
        assert borders[value][0] == 0
        assert borders[value][-1] == size
        assert borders[value] == sorted(borders[value])
    for number, window in enumerate(windows):
        for have, done in zip(borders[number], borders[number + 1], strict=True):
            assert done <= window.ready(have, sizes[number])


def test_on_a_cpu_a_weight_is_laid_out_once_as_its_tiles_lie():
    conv = torch.nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    prepared, tile = Prepared(), torch.zeros(1, 4, 5, 5)
    innermost = tile.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        made = prepared.weight(conv, tile)
        assert made.is_contiguous()
        assert torch.equal(made, conv.weight)
        assert prepared.weight(conv, tile) is made
        assert prepared.weight(conv, innermost) is conv.weight
        plain = torch.nn.Conv2d(4, 6, 3)
        assert prepared.weight(plain, tile) is plain.weight
