"""Hooks that tile only where memory is short: too little of it for untiled, and plenty."""

from __future__ import annotations

from dataclasses import replace

from vae_compat.contracts.cases import Case
from vae_compat.contracts.finding import Grade
from vae_compat.contracts.promise import Promise
from vae_compat.device.ledger import ROUNDING
from vae_compat.measure.observation import Baseline
from vae_compat.scenarios.results import Results
from vae_compat.scenarios.stage import Player
from vae_compat.scenarios.usage import Usage, UsageObserved, call, each_ran


def capacity_for(case: Case, promise: Promise, baseline: Baseline | None) -> int | None:
    """Bytes of memory between the peak of a tile and that of untiled; ``None`` for plenty.

    A tile with the halo that published hooks add takes its share of the plane's memory. Weights,
    input and result are there whatever runs. The middle leaves room for what a hook holds beside
    its tile, and for an estimate that is not exact.
    """
    if baseline is None or not promise.is_short(case):
        return None
    peak = baseline.reading.peak_bytes
    if peak is None:
        return None
    side = case.tile + 2 * case.facts.published_halo
    share = min(1.0, side / case.height) * min(1.0, side / case.width)
    held = baseline.weight_bytes + baseline.input_bytes + baseline.output.nbytes
    between = held + (1 + share) / 2 * max(0, peak - held)
    return min(int(between), peak - 1) // ROUNDING * ROUNDING


def _play_plenty(player: Player) -> None:
    call(player, "plenty of memory")


def _compare_plenty(results: Results) -> UsageObserved:
    """The result must equal untiled, whatever is promised of tiles."""
    exact = replace(results, promise=replace(results.promise, grade=str(Grade.EXACT)))
    return each_ran(exact)


PLENTY = Usage(_play_plenty, _compare_plenty)
