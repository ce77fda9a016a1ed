"""The same input alone, in a batch, after another, in memory full of NaN: results must be equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.utils import deterministic

from vae_compat.scenarios.relation import Compared, Relation, Runs, agreeing, pair
from vae_compat.scenarios.results import Results


def _play_batch_split(runs: Runs) -> None:
    x = runs.x()
    runs.run(x)
    for item in torch.split(x, 1):
        runs.run(item, case=replace(runs.case, batch=1))


def _compare_batch_split(results: Results) -> Compared:
    whole, count = results.output(0), results.case.batch
    alone = [results.output(1 + number) for number in range(count)]
    found = [
        agreeing(results, f"item {number} in a batch and by itself", together, by_itself, count)
        for number, (together, by_itself) in enumerate(
            zip(torch.split(whole, 1), alone, strict=False)
        )
    ]
    return found, "" if len(whole) == count > 1 else f"{len(whole)} items came of {count}"


BATCH_SPLIT = Relation(_play_batch_split, _compare_batch_split)


def _play_repeat(runs: Runs) -> None:
    x = runs.x()
    runs.run(x, x)
    runs.run(x.flip(-1), x)


def _compare_repeat(results: Results) -> Compared:
    return [
        pair(results, "the first call and the second", 0, 1),
        pair(results, "a call alone and after another input", 0, 3),
    ], ""


REPEAT = Relation(_play_repeat, _compare_repeat, wide=False)


def _play_poison(runs: Runs) -> None:
    x = runs.x()
    with uninitialised(filled=False):
        runs.run(x)
    with uninitialised(filled=True):
        works = bool(torch.empty(8).isnan().all())
        runs.run(x)
    runs.empty = "" if works else "memory could not be filled with NaN"


def _compare_poison(results: Results) -> Compared:
    return [pair(results, "clean memory and memory full of NaN", 0, 1)], ""


POISON = Relation(_play_poison, _compare_poison, wide=False)


@contextmanager
def uninitialised(*, filled: bool) -> Iterator[None]:
    """Fill what ``torch.empty`` and its like return with NaN, on the host and on the device."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
