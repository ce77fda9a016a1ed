"""One input cut in several ways (tile size, quadtree, memory): all results must be equal."""

from __future__ import annotations

from dataclasses import replace

import torch

from vae_compat.contracts.cases import Case, Mode
from vae_compat.scenarios.performed import Called
from vae_compat.scenarios.relation import Compared, Relation, Runs, pair_agreeing
from vae_compat.scenarios.results import Results

ROOM = 1.1
"""Memory of an accelerator on which the hook must run, over what it took at the same size. The
value is a choice."""


def _play_tile_size(runs: Runs) -> None:
    x = runs.x()
    runs.run(x)
    runs.run(x, case=_with_tiles(runs.case))


def _compare_tile_size(results: Results) -> Compared:
    found = pair_agreeing(results, _tile_sizes(results.case), 0, 1)
    return [found], "both tile sizes ran the same convolutions" if _alike(results) else ""


TILE_SIZE = Relation(_play_tile_size, _compare_tile_size)


def _play_oversize(runs: Runs) -> None:
    x = runs.x()
    first = runs.run(x)
    runs.run(x, case=_with_tiles(runs.case))
    runs.run(x, capacity=_capacity(first))


def _compare_oversize(results: Results) -> Compared:
    capacity = _capacity(results.call(0))
    found = [
        pair_agreeing(results, _tile_sizes(results.case), 0, 1),
        pair_agreeing(results, "plenty of memory and little", 0, 2),
    ]
    try:
        results.metered(capacity=capacity)
    except torch.OutOfMemoryError:
        return found, ""
    return found, f"untiled runs in the {capacity} bytes that the hook takes as well"


OVERSIZE = Relation(_play_oversize, _compare_oversize)


def _play_partition(runs: Runs) -> None:
    x = runs.x()
    runs.run(x, case=replace(runs.case, mode=Mode.EXACT))
    runs.run(x)


def _compare_partition(results: Results) -> Compared:
    found = pair_agreeing(results, "grid and quadtree", 0, 1)
    return [found], "grid and quadtree ran the same convolutions" if _alike(results) else ""


PARTITION = Relation(_play_partition, _compare_partition)


def _alike(results: Results) -> bool:
    """Whether both runs did the same work, so that comparing them would prove nothing."""
    first, second = results.call(0).reading, results.call(1).reading
    return first.convolved == second.convolved


def _capacity(first: Called) -> int:
    return int(ROOM * (first.reading.peak_bytes or 0))


def _with_tiles(case: Case) -> Case:
    """The same with tiles twice as large."""
    return replace(case, tile=2 * case.tile)


def _tile_sizes(case: Case) -> str:
    tiles = (f"tiles of {each.tile}" for each in (case, _with_tiles(case)))
    return " and ".join(tiles) + " latent pixels"
