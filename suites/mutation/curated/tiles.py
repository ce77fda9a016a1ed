"""Tiles and bands: where they are cut, and how planes are put together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vae_compat.suites.mutation.curated.declaring import Topic, returning
from vae_compat.suites.mutation.curated.places import (
    BATCH,
    ENCODED_PICTURE,
    FRAME,
    HALO,
    PICTURE,
    POISON,
    QUADTREE,
    STRIP,
)

TILES = Topic([])
mutation = TILES.mutation


@mutation("even", POISON, "poison")
def last_row_never_written(right: Any) -> Any:
    return returning(lambda borders, *_: [*borders[:-1], max(borders[-1] - 1, 1)])(right)


@mutation("BandPlane.write", HALO, "mechanism")
def last_row_of_a_band_repeated(right: Any) -> Any:
    def wrong(plane: Any, rows: Any, cols: Any, tile: Tensor) -> None:
        if rows.size > 1:
            tile = torch.cat([tile[..., :-1, :], tile[..., -2:-1, :]], dim=-2)
        right(plane, rows, cols, tile)

    return wrong


@mutation("BandPlane.write", PICTURE, "parity")
def stored_in_half_precision(right: Any) -> Any:
    return lambda plane, rows, cols, tile: right(plane, rows, cols, tile.bfloat16().to(tile.dtype))


@mutation("BandPlane.add", PICTURE, "parity")
def shortcut_dropped(right: Any) -> Any:
    def wrong(plane: Any, rows: Any, cols: Any, tile: Tensor, divisor: float) -> None:
        shortcut = plane.tensor[..., slice(*rows), slice(*cols)]
        right(plane, rows, cols, tile - shortcut, divisor)

    return wrong


@mutation("Plane.write", QUADTREE, "mechanism")
def quadtree_shifts_its_tiles(right: Any) -> Any:
    return lambda plane, rows, cols, tile: right(plane, rows, cols, tile.roll(1, -1))


@mutation("VAEHook.items", BATCH, "batch_items")
def first_item_for_all(right: Any) -> Any:
    return lambda hook, job, way, x: right(hook, job, way, x[:1].expand_as(x))


@mutation("VAEHook.items", HALO, "output_dtype")
def comes_out_in_double(right: Any) -> Any:
    return returning(lambda out, *_: out.double())(right)


@mutation("VAEHook.items", HALO, "output_device")
def stays_on_the_host(right: Any) -> Any:
    return returning(lambda out, *_: out.cpu())(right)


@mutation("run_tile", PICTURE, "work", calls="fetch")
def works_ten_times(right: Any) -> Any:
    return lambda *args, **kwargs: [right(*args, **kwargs) for _ in range(10)][-1]


@mutation("VAEHook.by_bands", PICTURE, "live_bytes")
def keeps_a_tensor(right: Any) -> Any:
    def change(result: Tensor, hook: Any, *_: Any) -> Tensor:
        hook.latest = result.clone()
        return result

    return returning(change)(right)


@mutation("VAEHook.by_bands", ENCODED_PICTURE, "input_untouched")
def empties_the_input(right: Any) -> Any:
    def change(result: Tensor, hook: Any, plan: Any, job: Any, x: Tensor) -> Tensor:
        x.zero_()
        return result

    return returning(change)(right)


# Line buffers, through which single frames go.


@mutation("Stream.take", FRAME, "parity", calls="clone")
def carried_pixels_blank(right: Any) -> Any:
    return lambda: torch.zeros_like(right())


@mutation("Stream.take", FRAME, "parity", calls="clone")
def carried_columns_one_off(right: Any) -> Any:
    return lambda: right().roll(1, -1)


@mutation("Window.demand", FRAME, "completes")
def tiles_run_too_little_ahead(right: Any) -> Any:
    return returning(lambda count, *_: max(count - 1, 0))(right)


@mutation("Window.oldest", FRAME, "completes")
def carried_rows_given_up_too_early(right: Any) -> Any:
    return returning(lambda first, window, start, size: min(first + 1, size))(right)


@mutation("Planner.nominal", STRIP, "requested_tile")
def tiles_five_times_as_long(right: Any) -> Any:
    return returning(lambda side, *_: 5 * side)(right)


@mutation("run_buffered", FRAME, "parity", calls="write")
def last_row_of_a_tile_repeated(right: Any) -> Any:
    def wrong(rows: Any, cols: Any, tile: Tensor) -> None:
        right(rows, cols, torch.cat([tile[..., :-1, :], tile[..., -2:-1, :]], dim=-2))

    return wrong
