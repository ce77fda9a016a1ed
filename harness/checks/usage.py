"""Recommended: the hook behaves as the programs that use it expect."""

from __future__ import annotations

import math

from vae_compat.checks.comparing import comparable, promised
from vae_compat.checks.conditions import (
    any_context,
    claimed,
    claims_coder,
    cuts_in_time,
    may_run_untiled,
    plays,
    sets_overlap,
    tiles_when_short,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.parity import broken, described, grade_of
from vae_compat.checks.wording import IN, mebibytes, mebibytes_apart, raised, raised_at
from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Grade, Status, Tier
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.comparison import Comparison
from vae_compat.scenarios.settings import APART, STEPLESS
from vae_compat.scenarios.usage import Ran, UsageObserved

TINY = 8
"""Latent pixels: smaller tiles that are blended need not give a picture. The results of sound hooks
have a correlation with the truth of 0.83 with tiles of 8, of 0.28 with 3, and of none with 1."""

Wrong = tuple[str, str, str]
"""What was got, what it should be, where."""


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.SETTINGS))
def check_settings(observed: Observed) -> Answer:
    """A hook built without a setting uses its own default, whatever it was built with before.

    The hook is built three times: first without any setting for which its signature has a default,
    then with tiles half as large as those of the case, then as at first. Settings without a default
    are always given. The first two results must have the promised grade. The second must come of
    other convolutions than the first, or the size had no effect. The third must equal the first to
    the bit and run the same convolutions.

    This is checked on the simulated accelerator in float32, in each claimed direction of one family
    of each kind of coder (with ``--full``, of every family), and in the first mode that is claimed.
    """
    answer = _judged(observed, "the result of a first use: settings do not outlive a hook")
    if answer.status is not Status.PASSED or not isinstance(observed, UsageObserved):
        return answer
    usual, between = (ran.seen for ran in observed.ran)
    same = usual.reading.convolved == between.reading.convolved
    if same and not may_run_untiled(between.case, between.promise):
        return failed(
            f"the same convolutions for tiles of {between.case.tile} latent pixels as by default",
            "other tiles: a size that is asked for takes effect, whatever was used before",
            IN + observed.ran[1].what,
        )
    return answer


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.SWITCHES))
def check_switches(observed: Observed) -> Answer:
    """Where tiling is switched off, the result is untiled to the bit.

    This holds for the other direction while the hook is on, and for both after it is taken off.
    """
    return _judged(observed, "untiled to the bit, because tiling is switched off there")


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.TINY_TILES))
def check_tiny_tiles(observed: Observed) -> Answer:
    """The smallest tiles work or are refused with a clear error.

    A single tile that holds the whole plane takes no more convolutions than untiled. Where several
    ``passes`` are claimed, each further one may cut it in two, as tiles of half the height or width
    do.
    """
    if not isinstance(observed, UsageObserved) or not (observed.ran or observed.comparisons):
        return _nothing(observed)
    for ran in observed.ran:
        failure = ran.seen.failure
        whole = ran.seen.case.fits_one_tile  # refusing that as well would be to refuse everything
        refused = failure is not None and failure.deliberate and not whole
        if not refused and (wrong := _wrong(ran, refusing=not whole)) is not None:
            return failed(*wrong)
        untiled = sum(ran.seen.baseline.reading.convolutions.values())
        tiles = 2 * observed.promise.passes - 1
        if whole and ran.convolutions > tiles * untiled:
            got = f"{ran.convolutions} convolutions for a plane that fits one tile"
            most = f"{untiled}, as untiled" if tiles == 1 else f"at most {tiles} x {untiled}"
            return failed(got, most, IN + ran.what)
    return passed({"sizes": len(observed.ran)})


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.OUT_OF_MEMORY))
def check_out_of_memory(observed: Observed) -> Answer:
    """Where memory runs out once, the hook says so or goes on, and frees what the attempt held.

    After the failure, live memory may exceed that at the first convolution of an undisturbed call
    by at most input plus output. Anything beyond that was left by the failed attempt.
    """
    if not isinstance(observed, UsageObserved) or not (observed.ran or observed.comparisons):
        return _nothing(observed)
    for ran in observed.ran:
        failure = ran.seen.failure
        told = failure is not None and (failure.out_of_memory or failure.deliberate)
        told = told and ran is not observed.ran[0]
        if not told and (wrong := _wrong(ran)) is not None:
            return failed(*wrong)
    memory = observed.memory
    if memory is None or observed.empty:
        return not_judged(observed.empty or "memory was not measured")
    bound = memory.first + observed.held
    numbers = {"live_first": memory.first, "live_failed": memory.most, "live_after": memory.after}
    # Where the call ends with the error, other threads may still have ended their tiles.
    went_on = not observed.ran or observed.ran[-1].seen.failure is None
    if not went_on:  # nothing comes after
        del numbers["live_after"]
    if went_on and memory.after is not None and memory.after > bound:
        live, most = mebibytes_apart(memory.after, bound)
        return failed(
            f"{live} still live whenever a convolution ran after memory had run "
            f"out at {mebibytes(memory.most)}",
            f"at most {most}, without the tensors of the failed attempt (an exception "
            f"that is being handled keeps them alive)",
            metrics=numbers,
        )
    if memory.left > observed.held:
        got = f"{mebibytes(memory.left)} still allocated after memory had run out"
        return failed(got, "none beyond the output", metrics=numbers)
    for pair in observed.comparisons:
        if (bad := _differs(pair)) is not None:
            return failed(bad, "the result of an undisturbed call", IN + pair.what)
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.ON_HOST))
def check_on_host(observed: Observed) -> Answer:
    """A VAE on the CPU of a machine with a GPU runs on the CPU, where its input is."""
    return _each(observed)


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.OVERLAPS) & sets_overlap)
def check_overlaps(observed: Observed) -> Answer:
    """Tiles that do not overlap, and tiles that overlap by half, give a result, and not by one way.

    No overlap may be refused with a clear error. Both overlaps must differ in what is computed, or
    the setting is not read. An overlap as large as a tile leaves no step, and a stride that is
    larger leaves strips between tiles: each must be refused, or the result is right all the same.
    """
    if not isinstance(observed, UsageObserved) or len(observed.ran) < 2:
        return _nothing(observed)
    none, half, *further = observed.ran
    for ran in (none, half, *further):
        if (wrong := _wrong_or_refused(ran, may_refuse=ran is not half)) is not None:
            return failed(*wrong)
    if none.seen.reading.convolved == half.seen.reading.convolved:
        return failed("the same convolutions for both overlaps", "more work for the larger one")
    return passed({"convolutions_none": none.convolutions, "convolutions_half": half.convolutions})


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.TEMPORAL) & cuts_in_time)
def check_temporal_tiles(observed: Observed) -> Answer:
    """The length and the overlap of time tiles that are asked for are what runs.

    A clip is run in time tiles of two lengths and, where the hook takes an overlap or a stride,
    without an overlap. Each must differ in what is computed. No overlap, and a step of no length or
    past the end of a time tile, may be refused with a clear error; whatever runs must be right.
    """
    if not isinstance(observed, UsageObserved) or not observed.ran:
        return _nothing(observed)
    before: Ran | None = None
    for ran in observed.ran:
        refused = ran.seen.failure is not None
        if (wrong := _wrong_or_refused(ran, may_refuse=ran.what in (APART, STEPLESS))) is not None:
            return failed(*wrong)
        if refused or ran.what == STEPLESS:
            continue
        if before and before.seen.reading.convolved == ran.seen.reading.convolved:
            return failed(
                f"the same convolutions for {ran.what} as for {before.what}",
                "other work: a length that is asked for takes effect",
            )
        before = ran
    return passed({"sizes": len(observed.ran)})


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.INFERENCE_MODE) & any_context)
def check_inference_mode(observed: Observed) -> Answer:
    """The hook works under ``torch.inference_mode()`` as under ``torch.no_grad()``.

    Some hosts call it under the one, some under the other. Where the profile claims a ``context``,
    all cases run in that, and this check does not apply.
    """
    return _each(observed)


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.OFFLOADED) & claims_coder)
def check_offloaded(observed: Observed) -> Answer:
    """The result is right where weights are not on the device until their module is called.

    Or the hook refuses with a clear error. Hosts keep weights elsewhere where memory is short:
    ComfyUI's layers, accelerate's and diffusers' hooks.
    """
    return _right_or_refused(observed)


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.STATIC) & claims_coder)
def check_static(observed: Observed) -> Answer:
    """The result is right on a coder that returns the same memory for each call, or it is refused.

    A tile that is kept for later without a copy is overwritten by the next one of its size.
    """
    return _right_or_refused(observed)


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.PATCHED) & claims_coder)
def check_patched(observed: Observed) -> Answer:
    """Where somebody else has replaced forwards of the coder, the hook calls the replacements.

    Each of them at least once: that of the coder itself, and those of its convolutions. Or it
    refuses with a clear error.
    """
    answer = _right_or_refused(observed)
    passed_by = observed.passed_by if isinstance(observed, UsageObserved) else ()
    if answer.status is not Status.PASSED or "answer" in answer.metrics or not passed_by:
        return answer
    return failed(
        f"{len(passed_by)} forwards that somebody else had replaced were never called, the first"
        f" that of {passed_by[0]}",
        "a call of what was there, untiled if need be",
    )


def _right_or_refused(observed: Observed) -> Answer:
    """Whether the result is right, or there is a clear error instead."""
    if isinstance(observed, UsageObserved) and observed.ran:
        failure = observed.ran[-1].seen.failure
        if failure is not None and failure.deliberate:
            return passed({"answer": f"refused: {failure.kind}"})
    return _judged(observed, "the result of a plain coder")


@check(tier=Tier.RECOMMENDED, when=claimed & plays(Scenario.PLENTY) & tiles_when_short)
def check_plenty(observed: Observed) -> Answer:
    """A hook that tiles only where memory is short equals untiled where there is plenty."""
    return _each(observed)


def _each(observed: Observed) -> Answer:
    """Whether every call is right by itself."""
    if not isinstance(observed, UsageObserved) or not (observed.ran or observed.comparisons):
        return _nothing(observed)
    for ran in observed.ran:
        if (wrong := _wrong(ran)) is not None:
            return failed(*wrong)
    return passed()


def _judged(observed: Observed, should: str) -> Answer:
    """Whether every result is right, and both results of each pair are the same to the bit."""
    if not isinstance(observed, UsageObserved) or not (observed.ran or observed.comparisons):
        return _nothing(observed)
    for ran in observed.ran:
        if (wrong := _wrong(ran)) is not None:
            return failed(*wrong)
    for pair in observed.comparisons:
        if (bad := _differs(pair)) is not None:
            return failed(bad, should, IN + pair.what)
    return passed({"pairs": len(observed.comparisons)})


def _nothing(observed: Observed) -> Answer:
    """Why there is nothing to judge."""
    return not_judged(raised(observed.failure) if observed.failure else "nothing was run")


def _wrong_or_refused(ran: Ran, *, may_refuse: bool) -> Wrong | None:
    """What is wrong with a call that may be refused; ``None`` where nothing is."""
    failure = ran.seen.failure
    if may_refuse and failure is not None and failure.deliberate:
        return None
    return _wrong(ran, refusing=may_refuse)


def _wrong(ran: Ran, *, refusing: bool = False) -> Wrong | None:
    """What is wrong with a call; ``None`` where nothing is."""
    seen, where = ran.seen, IN + ran.what
    bar = promised(seen)
    least = "a result of grade exact" if bar is Grade.EXACT else f"at least of grade {bar}"
    should = least + (" or a clear refusal" if refusing else "")
    if seen.failure is not None:
        return raised_at(seen.failure), should, where
    output = comparable(seen)
    if isinstance(output, Answer):
        return output.why, should, where
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


def _differs(pair: Comparison) -> str | None:
    """How the two of a pair differ; ``None`` where they do not."""
    if pair.holds:
        return None
    if pair.failure is not None:
        return raised(pair.failure)
    if not math.isfinite(pair.apart):
        return pair.where
    return f"a result that differs by up to {pair.apart:.3g} x rms"
