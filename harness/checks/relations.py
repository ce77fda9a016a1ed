"""Advanced: results of the hook agree with each other where no baseline is needed to say so."""

from __future__ import annotations

from vae_compat.checks.finding import Finding, Tier
from vae_compat.checks.speaking import Metrics, Speaker
from vae_compat.checks.wording import number
from vae_compat.measure.relations import Related

_TILE_SIZE = Speaker("tile_size", Tier.ADVANCED)
_OVERSIZE = Speaker("oversize", Tier.ADVANCED)
_PARTITION = Speaker("partition", Tier.ADVANCED)
_BATCH_SPLIT = Speaker("batch_split", Tier.ADVANCED)
_SHIFT = Speaker("shift", Tier.ADVANCED)
_REPEAT = Speaker("repeat", Tier.ADVANCED)
_POISON = Speaker("poison", Tier.ADVANCED)


def check_tile_size(related: Related) -> Finding:
    """The result does not depend on the size of the tiles."""
    return _judged(_TILE_SIZE, related, "the result depends on the tile size")


def check_oversize(related: Related) -> Finding:
    """On a plane that untiled has no memory for, the hook runs, and all tile sizes agree."""
    return _judged(_OVERSIZE, related, "the result depends on the tile size or on free memory")


def check_partition(related: Related) -> Finding:
    """A grid and a quadtree give one result."""
    return _judged(_PARTITION, related, "the result depends on how the plane is cut")


def check_batch_split(related: Related) -> Finding:
    """An item of a batch gets the result that it gets alone."""
    return _judged(_BATCH_SPLIT, related, "the result depends on other items of the batch")


def check_shift(related: Related) -> Finding:
    """In a net that is local, a moved picture gives a result that is moved and no other."""
    return _judged(_SHIFT, related, "the result depends on where the picture lies in the tiles")


def check_repeat(related: Related) -> Finding:
    """A second call gives the first one's result to the last bit, whatever came between."""
    return _judged(_REPEAT, related, "the result depends on earlier calls")


def check_poison(related: Related) -> Finding:
    """Nothing of the memory that the hook allocates, but never writes to, reaches its result."""
    return _judged(_POISON, related, "memory that was never written to reaches the result")


def _judged(speaker: Speaker, related: Related, saying: str) -> Finding:
    """Whether all comparisons are within their bounds."""
    failure = related.failure
    if failure is not None:
        got = f"{failure.kind}: {failure.message}"
        return speaker.failed(related, got, "a result", failure.where)
    wrong = [found for found in related.comparisons if not found.apart <= found.bound]
    if not wrong and (related.empty or not related.comparisons):
        return speaker.not_judged(related.empty or "nothing was compared")
    worst = max(wrong or related.comparisons, key=lambda found: found.apart)
    numbers: Metrics = {"apart": worst.apart, "bound": worst.bound, "dtype": related.dtype}
    if not wrong:
        return speaker.passed(numbers)
    return speaker.failed(
        related,
        f"results that are {number(worst.apart)} x rms apart for {worst.what}: {saying}",
        f"one result, at most {number(worst.bound)} x rms apart in {related.dtype}",
        worst.where,
        metrics=numbers,
    )
