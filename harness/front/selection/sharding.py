"""Splits the selection of a run into shards, which machines run side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vae_compat.contracts.cases import Case
from vae_compat.errors import UsageError
from vae_compat.matrix import cost

if TYPE_CHECKING:
    from vae_compat.front.selection.options import Options
    from vae_compat.subject.profile import Profile

MOST = 1000
"""Shards that a selection may be split into."""
BASELINE = 4.0
"""Cost of untiled and truth, as a multiple of that of one run of the hook."""


@dataclass(frozen=True)
class Shard:
    """One of several parts of a selection."""

    number: int
    """Which part, counted from 1."""
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """The shard that ``K/N`` names. Raises ``ValueError`` where it names none."""
        found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text.strip(), re.ASCII)
        if found is None:
            raise ValueError("give K/N, as in 1/4 for the first of four")
        shard = cls(int(found[1]), int(found[2]))
        if not 1 <= shard.number <= shard.count <= MOST:
            raise ValueError(f"give K/N with K from 1 to N, and N up to {MOST}")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def costs(cases: Iterable[Case]) -> dict[str, float]:
    """What the cases of each truth cost together, the baseline included, by ``Case.truth_id``."""
    total: dict[str, float] = {}
    for case in cases:
        known = total.get(case.truth_id, BASELINE * cost(case))
        total[case.truth_id] = known + cost(case)
    return total


def shared_out(total: Mapping[str, float], count: int) -> dict[str, int]:
    """The number of the shard of each truth: the dearest first, each to the emptiest shard.

    The same for everyone who asks, and no shard is empty where there are as many truths.
    """
    loads = [0.0] * count
    shares: dict[str, int] = {}
    for group in sorted(total, key=lambda group: (-total[group], group)):
        emptiest = loads.index(min(loads))
        loads[emptiest] += total[group]
        shares[group] = emptiest + 1
    return shares


def groups_of(
    options: Options, selected: Iterable[tuple[Profile, Sequence[Case]]]
) -> frozenset[str]:
    """The truths whose cases the shard of the options runs.

    What the tiers of the run check is split; ``-k`` and what an earlier run has done change
    nothing, so that all shards come to the same split. Raises ``UsageError`` where there are fewer
    truths than shards.
    """
    from vae_compat.checks.registry import CHECKS  # imports torch

    assert options.shard is not None
    shard = Shard.of(options.shard)
    checks = [check for check in CHECKS if check.tier in options.tiers_to_run]
    total = costs(
        case
        for profile, cases in selected
        for case in cases
        if any(check.applies(case, profile.promise(case)) for check in checks)
    )
    if len(total) < shard.count:
        raise UsageError(
            f"--shard {shard}: the selection has {len(total)} baselines, and the cases of each stay"
            f" together: split it into {max(len(total), 1)} or fewer"
        )
    shares = shared_out(total, shard.count)
    return frozenset(group for group, number in shares.items() if number == shard.number)
