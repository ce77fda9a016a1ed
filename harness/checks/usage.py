"""Recommended: the hook behaves as a program that uses it expects."""

from __future__ import annotations

import torch
from vae_compat.checks.finding import Finding, Grade, Tier
from vae_compat.checks.parity import broken, described, grade_of
from vae_compat.checks.speaking import Speaker, incomparable, promised
from vae_compat.checks.wording import mebibytes, repeat
from vae_compat.measure.observation import Observed
from vae_compat.measure.usage import Pair, Ran, UsageObserved

_SETTINGS = Speaker("settings", Tier.RECOMMENDED)
_SWITCHES = Speaker("switches", Tier.RECOMMENDED)
_TINY = Speaker("tiny_tiles", Tier.RECOMMENDED)
_MEMORY = Speaker("out_of_memory", Tier.RECOMMENDED)
_HOST = Speaker("on_host", Tier.RECOMMENDED)

TINY = 8
"""Latent pixels below which tiles that are blended need not give a picture: sound hooks come down
to a correlation of 0.28 with tiles of three, and to none with tiles of one; 0.83 with eight."""

Wrong = tuple[str, str, str]
"""What was got, what it should be, where."""


def check_settings(observed: Observed) -> Finding:
    """A hook built without a setting uses its own default, whatever it was built with before."""
    return _judged(_SETTINGS, observed, "the result of a first use: settings do not outlive a hook")


def check_switches(observed: Observed) -> Finding:
    """What is switched off is untiled to the bit: the other direction, and both afterwards."""
    return _judged(_SWITCHES, observed, "untiled to the bit: nobody has switched tiling on there")


def check_tiny_tiles(observed: Observed) -> Finding:
    """The smallest tiles work or are refused with a clear error; one tile is no more work."""
    if (why := _nothing(observed)) is not None or not isinstance(observed, UsageObserved):
        return _TINY.not_judged(why or "")
    for ran in observed.ran:
        failure = ran.seen.failure
        whole = ran.seen.case.fits_one_tile  # refusing that as well would be to refuse everything
        refused = failure is not None and failure.deliberate and not whole
        if not refused and (wrong := _wrong(ran, refusing=not whole)) is not None:
            return _TINY.failed(observed, *wrong)
        untiled = sum(ran.seen.baseline.reading.convolutions.values())
        if whole and ran.convolutions > untiled:
            got = f"{ran.convolutions} convolutions for a plane that fits one tile"
            return _TINY.failed(observed, got, f"{untiled}, as untiled", ran.what)
    return _TINY.passed({"sizes": len(observed.ran)})


def check_out_of_memory(observed: Observed) -> Finding:
    """Where memory runs out once, the hook says so or goes on, and holds nothing of the failure.

    What it goes on with may be as large as result and input beyond what an undisturbed call has at
    its first convolution. More than that is what the failed attempt has left.
    """
    if (why := _nothing(observed)) is not None or not isinstance(observed, UsageObserved):
        return _MEMORY.not_judged(why or "")
    for ran in observed.ran:
        failure = ran.seen.failure
        told = failure is not None and (failure.out_of_memory or failure.deliberate)
        told = told and ran is not observed.ran[0]
        if not told and (wrong := _wrong(ran)) is not None:
            return _MEMORY.failed(observed, *wrong)
    memory = observed.memory
    if memory is None or observed.empty:
        return _MEMORY.not_judged(observed.empty or "memory was not measured")
    bound = memory.first + memory.held
    numbers = {"live_first": memory.first, "live_failed": memory.most, "live_after": memory.after}
    if memory.after is not None and memory.after > bound:
        return _MEMORY.failed(
            observed,
            f"{mebibytes(memory.after)} still live whenever a convolution ran after memory had run "
            f"out at {mebibytes(memory.most)}",
            f"at most {mebibytes(bound)}, without the tensors of the failed attempt (an exception "
            f"that is being handled keeps them alive)",
            metrics=numbers,
        )
    if memory.left > memory.held:
        got = f"{mebibytes(memory.left)} still allocated after memory had run out"
        return _MEMORY.failed(observed, got, "none beyond the output", metrics=numbers)
    for pair in observed.pairs:
        if (bad := _differs(pair)) is not None:
            return _MEMORY.failed(observed, bad, "the result of an undisturbed call", pair.what)
    return _MEMORY.passed(numbers)


def check_on_host(observed: Observed) -> Finding:
    """A VAE on the CPU runs there, though the machine has a GPU: a hook goes by its input."""
    if (why := _nothing(observed)) is not None or not isinstance(observed, UsageObserved):
        return _HOST.not_judged(why or "")
    for ran in observed.ran:
        if (wrong := _wrong(ran)) is not None:
            return _HOST.failed(observed, *wrong)
    return _HOST.passed()


def _judged(speaker: Speaker, observed: Observed, should: str) -> Finding:
    """Whether every result is right, and each pair the same to the bit."""
    if (why := _nothing(observed)) is not None or not isinstance(observed, UsageObserved):
        return speaker.not_judged(why or "")
    for ran in observed.ran:
        if (wrong := _wrong(ran)) is not None:
            return speaker.failed(observed, *wrong)
    for pair in observed.pairs:
        if (bad := _differs(pair)) is not None:
            return speaker.failed(observed, bad, should, pair.what)
    return speaker.passed({"pairs": len(observed.pairs)})


def _nothing(observed: Observed) -> str | None:
    """Why there is nothing to judge."""
    if isinstance(observed, UsageObserved) and (observed.ran or observed.pairs):
        return None
    failure = observed.failure
    why = f"{failure.kind}: {failure.message}" if failure else "nothing was run"
    return "; ".join([why, *repeat(observed)])


def _wrong(ran: Ran, *, refusing: bool = False) -> Wrong | None:
    """What is wrong with a call; ``None`` where nothing is."""
    seen, where = ran.seen, ran.what
    bar = promised(seen)
    should = f"a result that is {bar}" + (" or a clear refusal" if refusing else "")
    if seen.failure is not None:
        failure = seen.failure
        told = f"{failure.kind}: {failure.message or '(no message)'} ({failure.where})"
        return told, should, where
    if (why := incomparable(seen)) is not None:
        return why, should, where
    ours, given = seen.output_device, seen.input_device
    if ours != given:
        return f"a result on {ours}", f"on {given}, as the input is", where
    if bar is Grade.DEGRADED and seen.case.tile < TINY:
        flaw = broken(seen)
        return (flaw, should, where) if flaw else None
    grade = grade_of(seen)
    if not grade.meets(bar):
        return f"grade {grade} ({described(seen, grade)})", should, where
    return None


def _differs(pair: Pair) -> str | None:
    """How the two of a pair differ; ``None`` where they do not."""
    if pair.failure is not None:
        return f"{pair.failure.kind}: {pair.failure.message or '(no message)'}"
    if pair.got is None:
        return "no tensor"
    if pair.got.shape != pair.should.shape or pair.got.dtype != pair.should.dtype:
        return f"another shape or dtype ({tuple(pair.got.shape)}, {pair.got.dtype})"
    if not torch.equal(pair.got, pair.should):
        apart = float((pair.got.double() - pair.should.double()).abs().max())
        return f"a result that differs by up to {apart:.3g}"
    if pair.work is not None and pair.work[0] != pair.work[1]:
        return "the same result by other convolutions"
    return None
