"""Advanced: results of the hook agree with each other, which needs no baseline."""

from __future__ import annotations

from vae_compat.checks.conditions import claimed, may_run_untiled, plays, promises_exact
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import apart, mebibytes, mebibytes_apart, raised
from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Metrics, Status, Tier
from vae_compat.scenarios.relation import Related

tiles_freely = promises_exact & ~may_run_untiled
"""Skipped for inexact hooks, whose results depend on tiles by design, and for fallback hooks, which
have none."""


BATCH_SLACK = 1.05
"""Over the memory of as many items: what a batch needs beside them, such as a list of results. The
value is a choice."""


@check(tier=Tier.ADVANCED, when=claimed & plays(Scenario.TILE_SIZE) & tiles_freely)
def check_tile_size(related: Related) -> Answer:
    """The result does not depend on the size of the tiles."""
    return _judged(related, "the result depends on the tile size")


@check(tier=Tier.ADVANCED, when=claimed & plays(Scenario.OVERSIZE) & tiles_freely)
def check_oversize(related: Related) -> Answer:
    """The hook runs on a plane that is too large for untiled, and all tile sizes agree."""
    return _judged(related, "the result depends on the tile size or on free memory")


@check(tier=Tier.ADVANCED, when=claimed & plays(Scenario.PARTITION) & tiles_freely)
def check_partition(related: Related) -> Answer:
    """A grid and a quadtree give one result."""
    return _judged(related, "the result depends on how the plane is cut")


@check(tier=Tier.ADVANCED, when=claimed & plays(Scenario.BATCH_SPLIT))
def check_batch_split(related: Related) -> Answer:
    """Each item of a batch has the result that it has in a call of its own, and takes no more.

    A batch of two takes at most twice the memory of its larger item, where tiles run, weights
    included: a hook may cast them or send them away for the time of a call. A hook that claims
    ``slices`` takes no more than that item, and the input and the results twice (in parts, and put
    together).
    """
    answer = _judged(related, "the result depends on other items of the batch")
    if answer.status is not Status.PASSED or may_run_untiled(related.case, related.promise):
        return answer
    if not related.taken:
        return not_judged("memory was not measured")
    whole, single = related.taken[0], max(related.taken[1:])
    slices, count = related.promise.slices, related.case.batch
    several = int((single + related.before) * count * BATCH_SLACK) - related.before
    bound = single + 2 * related.given if slices else several
    numbers: Metrics = {**answer.metrics, "batch_peak": whole, "item_peak": single}
    if whole > bound:
        got, most = mebibytes_apart(whole, bound)
        return failed(
            f"a peak of {got} for a batch of {count}, and of {mebibytes(single)} for an item",
            f"at most {most}" + (", as items run one by one" if slices else ""),
            metrics=numbers,
        )
    return passed(numbers)


@check(tier=Tier.ADVANCED, when=claimed & plays(Scenario.SHIFT) & tiles_freely)
def check_shift(related: Related) -> Answer:
    """In a net without global operations, a moved picture gives the same result, moved."""
    return _judged(related, "the result depends on where the picture lies in the tiles")


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.REPEAT))
def check_repeat(related: Related) -> Answer:
    """A second call gives the result of the first to the last bit, whatever was run in between."""
    return _judged(related, "the result depends on earlier calls")


@check(tier=Tier.ADVANCED, when=claimed & plays(Scenario.POISON))
def check_poison(related: Related) -> Answer:
    """Memory that the hook allocates but never writes to does not reach its result."""
    return _judged(related, "memory that was never written to reaches the result")


def _judged(related: Related, meaning: str) -> Answer:
    """Whether all comparisons are within their bounds; ``meaning`` says what a failure means."""
    failure = related.failure
    if failure is not None:
        return failed(raised(failure), "a result", failure.where)
    wrong = [found for found in related.comparisons if not found.holds]
    if not wrong and (related.empty or not related.comparisons):
        return not_judged(related.empty or "nothing was compared")
    worst = max(wrong or related.comparisons, key=lambda found: found.apart)
    numbers: Metrics = {"apart": worst.apart, "bound": worst.bound, "dtype": related.dtype}
    if not wrong:
        return passed(numbers)
    got, most = apart(worst.apart, worst.bound)
    return failed(
        f"results that are {got} x rms apart for {worst.what}: {meaning}",
        f"one result, at most {most} x rms apart in {related.dtype}",
        worst.where,
        metrics=numbers,
    )
