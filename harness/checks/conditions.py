"""Which cases a check is for: small predicates that combine with ``&``, ``|`` and ``~``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vae_compat.contracts.cases import Case, Direction, Mode, Scale, Scenario
from vae_compat.contracts.finding import Grade
from vae_compat.contracts.promise import Promise
from vae_compat.scenarios.scenes import SEQUENCES

LONG = 9
"""Latent frames of a clip that has settled chunks both early and late, two frames a chunk."""


@dataclass(frozen=True)
class Condition:
    """What a check asks of a case and of what the profile says of it."""

    name: str
    holds: Callable[[Case, Promise], bool]

    def __call__(self, case: Case, promise: Promise) -> bool:
        """Whether a case meets it."""
        return self.holds(case, promise)

    def __and__(self, other: Condition) -> Condition:
        """Both hold."""
        return Condition(
            f"{self.name} & {other.name}",
            lambda case, promise: self(case, promise) and other(case, promise),
        )

    def __or__(self, other: Condition) -> Condition:
        """At least one holds."""
        return Condition(
            f"({self.name} | {other.name})",
            lambda case, promise: self(case, promise) or other(case, promise),
        )

    def __invert__(self) -> Condition:
        """It does not hold."""
        return Condition(f"~({self.name})", lambda case, promise: not self(case, promise))


def condition(holds: Callable[[Case, Promise], bool]) -> Condition:
    """Make a predicate a condition of the same name."""
    return Condition(holds.__name__, holds)


@condition
def claimed(_case: Case, promise: Promise) -> bool:
    """The profile claims the case."""
    return promise.claimed


@condition
def single_run(case: Case, _promise: Promise) -> bool:
    """The hook runs once; the case is no scenario."""
    return case.scenario is None


@condition
def whole_net(case: Case, _promise: Promise) -> bool:
    """A whole VAE: values, cost and side effects of a probe are not those of the family."""
    return case.scale is not Scale.PROBE


@condition
def decode(case: Case, _promise: Promise) -> bool:
    """The output is a picture."""
    return case.direction is Direction.DECODE


@condition
def several_items(case: Case, _promise: Promise) -> bool:
    """The batch has more than one item."""
    return case.batch > 1


@condition
def several_frames(case: Case, _promise: Promise) -> bool:
    """The clip has more than one latent frame."""
    return case.frames > 1


@condition
def one_tile(case: Case, promise: Promise) -> bool:
    """The plane fits one tile and the mode uses one.

    Quadtrees may cut below the tile, and estimating modes may look at the plane twice. Ranks cut
    every plane, and clips may run in other chunks than untiled. Where planes are cut in several
    ways, some tiles are longer and lower.
    """
    alone = case.frames == 1 and not promise.in_ranks and promise.passes == 1
    return case.fits_one_tile and case.mode is Mode.EXACT and alone


@condition
def accelerator(case: Case, _promise: Promise) -> bool:
    """The device has memory of its own; that of the plain CPU is not counted."""
    return case.device != "cpu"


@condition
def vram_tells(case: Case, _promise: Promise) -> bool:
    """Peaks are those of the hook: on a real GPU at sizes far above cuDNN's workspaces alone."""
    return case.vram_tells


@condition
def real_gpu(case: Case, _promise: Promise) -> bool:
    """The device is a real one, with an allocator that takes more than it hands out."""
    return case.device == "cuda"


@condition
def timed(case: Case, _promise: Promise) -> bool:
    """The hook and untiled were timed one after the other in one process."""
    return case.is_timed


@condition
def simulated(case: Case, _promise: Promise) -> bool:
    """The simulated device counts transfers, which a real one does not."""
    return case.device == "sim"


@condition
def may_run_untiled(case: Case, promise: Promise) -> bool:
    """A hook may run the case in one piece: it is small, or has caches and a claimed fallback.

    Or the hook tiles only where memory is short: there a small device shows it, not the tiles.
    """
    small = promise.longest(case) <= promise.largest_untiled(case)
    falls_back = case.facts.feature_cache and promise.cache == "fallback"
    return small or falls_back or promise.tiles_when_short


@condition
def tiles_when_short(_case: Case, promise: Promise) -> bool:
    """The hook tiles only where untiled does not fit into memory."""
    return promise.tiles_when_short


@condition
def sets_overlap(_case: Case, promise: Promise) -> bool:
    """The hook claims that the overlap of its tiles can be set."""
    return promise.overlap


@condition
def cuts_in_time(_case: Case, promise: Promise) -> bool:
    """The hook claims to cut clips in time as well."""
    return promise.temporal


@condition
def claims_coder(case: Case, promise: Promise) -> bool:
    """The hook claims to work on such coders as the scenario has."""
    return case.scenario in promise.coders


@condition
def any_context(_case: Case, promise: Promise) -> bool:
    """The profile does not say under which of torch's switches the hook is called."""
    return not promise.context


@condition
def promises_exact(_case: Case, promise: Promise) -> bool:
    """The profile promises the VAE's own result."""
    return promise.grade == Grade.EXACT


@condition
def promises_bounds(_case: Case, promise: Promise) -> bool:
    """The profile promises more than a grade."""
    return promise.bounds is not None


@condition
def promises_host_cost(_case: Case, promise: Promise) -> bool:
    """The profile bounds how often the host waits, or how much memory it holds."""
    return promise.waits_per_tile is not None or promise.host_memory is not None


@condition
def clamped(case: Case, _promise: Promise) -> bool:
    """The VAE clamps what its decoder gives to -1 to 1."""
    return case.facts.clamped


@condition
def beside_plain_tiles(case: Case, promise: Promise) -> bool:
    """No more than ``degraded`` is promised, so that plain tiles are what it is held to."""
    return promise.beside_plain_tiles(case)


@condition
def replaces_forward(_case: Case, promise: Promise) -> bool:
    """The hook takes the place of a coder's forward, so that the cache list passes through it."""
    return promise.kind == "forward"


@condition
def long_clip(case: Case, _promise: Promise) -> bool:
    """The clip is long enough to tell growth from a start."""
    return case.frames >= LONG


def plays(scenario: Scenario) -> Condition:
    """The case is this scenario."""
    return Condition(f"plays {scenario}", lambda case, _promise: case.scenario is scenario)


@condition
def plays_sequence(case: Case, promise: Promise) -> bool:
    """The case is a sequence of calls that hooks of this kind can be put through."""
    sequence = None if case.scenario is None else SEQUENCES.get(case.scenario)
    return sequence is not None and sequence.applies(case, promise)


probe = ~whole_net
clip = plays(Scenario.CLIP)
