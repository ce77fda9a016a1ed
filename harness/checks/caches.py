"""Advanced: after each chunk the caller's feature cache is what untiled would have left there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vae_compat.checks.comparing import promised
from vae_compat.checks.conditions import claimed, clip, replaces_forward
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.parity import LIKENESS
from vae_compat.checks.wording import ended_by, number
from vae_compat.contracts.finding import Grade, Status, Tier
from vae_compat.contracts.mechanisms import EXPLANATION
from vae_compat.measure.caches import Holds
from vae_compat.measure.distance import FLOOR_RATIO, WORST_RATIO, is_exact
from vae_compat.scenarios.clip import ClipObserved, Way
from vae_compat.scenarios.tracks import ChunkSeen, SlotSeen

_WORDS = (Holds.WORD, Holds.NOTHING)


@check(tier=Tier.ADVANCED, when=claimed & clip & replaces_forward)
def check_cache_slots(observed: ClipObserved) -> Answer:
    """The frames in every slot are those of untiled, within the noise of the VAE.

    Where less than ``exact`` is promised, they need only correlate with them. A slot may hold
    nothing but frames, so that a coder without the hook can continue from it.
    """

    def wrong(chunk: ChunkSeen) -> tuple[str, str] | None:
        if chunk.lengths[0] != chunk.lengths[1]:
            ours, untiled = chunk.lengths
            return f"{ours} slots after chunk {chunk.number}", f"{untiled}, as untiled"
        for written in chunk.written_between:
            return (
                f"{_named(written, chunk)} that was written after the call for chunk "
                f"{chunk.number - 1} had returned",
                "left alone between calls",
            )
        for slot in chunk.slots:
            if (told := _frames(slot, promised(observed))) is not None:
                return f"{place(slot, chunk)}: {told[0]}{_mechanism(slot)}", told[1]
        return None

    return _judged(observed, wrong)


@check(tier=Tier.ADVANCED, when=claimed & clip & replaces_forward)
def check_cache_sentinels(observed: ClipObserved) -> Answer:
    """Exactly those slots are empty, or hold the word ``Rep``, that are so after untiled."""

    def wrong(chunk: ChunkSeen) -> tuple[str, str] | None:
        for slot in chunk.slots:
            if any(kind in _WORDS for kind in slot.holds) and not slot.same_kind:
                return f"{place(slot, chunk)}: {slot.ours}{_mechanism(slot)}", slot.untiled
        return None

    return _judged(observed, wrong)


@check(tier=Tier.ADVANCED, when=claimed & clip & replaces_forward)
def check_cache_index(observed: ClipObserved) -> Answer:
    """``feat_idx`` ends where untiled leaves it: each slot counts once, however many tiles ran."""

    def wrong(chunk: ChunkSeen) -> tuple[str, str] | None:
        ours, untiled = chunk.index
        if ours == untiled:
            return None
        slots = {slot.number: f" (slot {slot.number}, {slot.name})" for slot in chunk.slots}
        told = "no index at all" if ours is None else f"{ours}{slots.get(ours, '')}"
        return (
            f"feat_idx at {told} after chunk {chunk.number}",
            f"{untiled}, past the last slot that the coder used",
        )

    return _judged(observed, wrong)


@check(tier=Tier.ADVANCED, when=claimed & clip & replaces_forward)
def check_cache_aliases(observed: ClipObserved) -> Answer:
    """Slots share memory with each other, the input or the output only where untiled does."""

    def wrong(chunk: ChunkSeen) -> tuple[str, str] | None:
        for one, other in sorted(chunk.shared, key=str):
            pair = " and ".join(_named(each, chunk) for each in (one, other))
            return (
                f"{pair} in the same memory after chunk {chunk.number}",
                "apart: what is written into one would change the other",
            )
        return None

    return _judged(observed, wrong)


def place(slot: SlotSeen, chunk: ChunkSeen) -> str:
    """``slot 7 (decoder.up_blocks.0.resnets.1.conv2) after chunk 2``."""
    return f"slot {slot.number} ({slot.name}) after chunk {chunk.number}"


def lone(observed: ClipObserved) -> str:
    """In a probe, the broken mechanism and the slots of its only convolution with a memory."""
    mechanism = observed.case.mechanism
    if mechanism is None:
        return ""
    slots = {
        s.number: s.name for _, chunk in _chunks(observed) for s in chunk.slots if s.looks_back
    }
    named = " and ".join(f"slot {number} ({name})" for number, name in slots.items())
    told = f", of which this probe shows {named} alone" if named else ""
    return f": {EXPLANATION[mechanism]}{told}"


def coherent(observed: ClipObserved) -> bool:
    """Whether the caches equal those of untiled after every chunk that was computed."""
    checks = (check_cache_slots, check_cache_sentinels, check_cache_index)
    return not observed.ways or all(check(observed).status is Status.PASSED for check in checks)


def _judged(observed: ClipObserved, wrong: Callable[[ChunkSeen], tuple[str, str] | None]) -> Answer:
    """Fail with the first chunk in which something is wrong.

    A cache without any frames gives nothing to compare, so it is not judged.
    """
    for way, chunk in _chunks(observed):
        if (told := wrong(chunk)) is not None:
            where = f"convention {way.convention}{lone(observed)}"
            return failed(told[0], told[1], where)
    raised = [way.failure for way in observed.shown if way.failure is not None]
    if raised:
        return not_judged(ended_by(raised[0]), blocked_by="clip_completes")
    kept = sum(
        slot.holds[1] is Holds.FRAMES for _, chunk in _chunks(observed) for slot in chunk.slots
    )
    if not kept:
        return not_judged("no chunk left frames in the cache, so nothing was compared")
    return passed({"slots_compared": kept, "conventions": len(observed.shown)})


def _chunks(observed: ClipObserved) -> Iterator[tuple[Way, ChunkSeen]]:
    for way in observed.shown:
        for chunk in way.chunks:
            yield way, chunk


def _frames(slot: SlotSeen, bar: Grade) -> tuple[str, str] | None:
    """What is wrong with the frames in a slot, and what would be right; ``None`` for nothing."""
    ours, untiled = slot.holds
    if ours is Holds.FOREIGN:
        return f"{slot.ours}, which no coder can read", slot.untiled
    if ours is not Holds.FRAMES or untiled is not Holds.FRAMES:
        return None  # see cache_sentinels
    if slot.error is None or slot.floor is None:
        return slot.ours, slot.untiled
    if is_exact(slot.error, slot.floor):
        return None
    if bar is not Grade.EXACT:
        like = slot.correlation or 0.0
        told = f"frames that correlate with those of untiled by {number(like)}"
        return None if like >= LIKENESS else (told, f"at least {number(LIKENESS)}")
    return (
        f"frames with rms error {number(slot.error.rms)} and worst {number(slot.error.worst)}",
        f"at most {number(FLOOR_RATIO)} x the {number(slot.floor.rms)} and {number(WORST_RATIO)} x"
        f" the {number(slot.floor.worst)} of untiled",
    )


def _mechanism(slot: SlotSeen) -> str:
    """How often the slot was written, where that differs from untiled."""
    ours, untiled = slot.writes
    if ours == untiled:
        return ""
    if not ours:
        return " (never written during the call: it is what the chunk before left)"
    return f" (written {ours} times during the call, untiled {untiled})"


def _named(which: int | str, chunk: ChunkSeen) -> str:
    if isinstance(which, str):
        return which
    known = which < len(chunk.slots)  # not one that was appended and taken away again
    return f"slot {which} ({chunk.slots[which].name if known else 'of no convolution'})"
