"""The list of all checks, and the cases each is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vae_compat.cases import Case, Direction, Scale, Scenario
from vae_compat.checks.caches import (
    check_cache_aliases,
    check_cache_index,
    check_cache_sentinels,
    check_cache_slots,
)
from vae_compat.checks.clips import check_clip_completes, check_flicker, check_video_parity
from vae_compat.checks.contract import check_call_contract, check_completes
from vae_compat.checks.cost import check_peak_vram, check_transfers, check_work
from vae_compat.checks.finding import Finding, Grade, Tier
from vae_compat.checks.manners import (
    check_input_untouched,
    check_left_behind,
    check_live_bytes,
    check_refusal,
)
from vae_compat.checks.mechanism import check_mechanism
from vae_compat.checks.output import (
    check_finite,
    check_output_device,
    check_output_dtype,
    check_output_shape,
)
from vae_compat.checks.parity import check_batch_items, check_parity
from vae_compat.checks.phases import (
    LONG,
    check_cache_parked,
    check_cache_phase,
    check_memory_growth,
)
from vae_compat.checks.picture import check_colour_shift, check_seams, check_value_range
from vae_compat.checks.relations import (
    check_batch_split,
    check_oversize,
    check_partition,
    check_poison,
    check_repeat,
    check_shift,
    check_tile_size,
)
from vae_compat.checks.sequences import check_sequence
from vae_compat.checks.tiles import (
    check_single_tile,
    check_tiles_ran,
    may_run_untiled,
    wants_single_tile,
)
from vae_compat.checks.usage import (
    check_on_host,
    check_out_of_memory,
    check_settings,
    check_switches,
    check_tiny_tiles,
)
from vae_compat.measure.observation import Promise
from vae_compat.measure.sequences import SEQUENCES


@dataclass(frozen=True)
class Check:
    """A check, and the cases it is for."""

    name: str
    tier: Tier
    function: Callable[[Any], Finding]
    """Takes what its cases have observed: an ``Observation``, or that of a scenario."""
    applies: Callable[[Case, Promise], bool]
    informs: bool = False
    """Whether it only puts numbers into the record, and no number accuses a hook."""


def _claimed(case: Case, promise: Promise) -> bool:
    return promise.claimed and case.scenario is None


def _whole(case: Case, promise: Promise) -> bool:
    """Claimed, and a whole VAE: values, cost and manners of probes are not the family's."""
    return _claimed(case, promise) and case.scale is not Scale.PROBE


def _whole_decode(case: Case, promise: Promise) -> bool:
    return _whole(case, promise) and case.direction is Direction.DECODE


def _several_items(case: Case, promise: Promise) -> bool:
    return _whole(case, promise) and case.batch > 1


def _single_tile(case: Case, promise: Promise) -> bool:
    return _whole(case, promise) and wants_single_tile(case)


def _accelerated(case: Case, promise: Promise) -> bool:
    """The plain CPU has no memory of its own to count."""
    return _whole(case, promise) and case.device != "cpu"


def _simulated(case: Case, promise: Promise) -> bool:
    """A real device does not tell its transfers."""
    return _whole(case, promise) and case.device == "sim"


def _no_probe(case: Case, _promise: Promise) -> bool:
    return case.scale is not Scale.PROBE and case.scenario is None


def _probe(case: Case, promise: Promise) -> bool:
    return _claimed(case, promise) and case.scale is Scale.PROBE


def _clip(case: Case, promise: Promise) -> bool:
    return promise.claimed and case.scenario is Scenario.CLIP


def _jumping_clip(case: Case, promise: Promise) -> bool:
    """Of moments every frame is a chunk: where they are not exact, nothing tells a jump apart."""
    told = promise.grade == Grade.EXACT or case.direction is Direction.DECODE
    return _clip(case, promise) and told and case.frames > 1


def _bare_clip(case: Case, promise: Promise) -> bool:
    """The cache list is seen where the hook takes the place of a coder's forward."""
    return _clip(case, promise) and promise.kind == "forward"


def _metered_clip(case: Case, promise: Promise) -> bool:
    return _bare_clip(case, promise) and case.device != "cpu"


def _long_clip(case: Case, promise: Promise) -> bool:
    return _metered_clip(case, promise) and case.frames >= LONG and case.scale is not Scale.PROBE


def _whole_clip(case: Case, promise: Promise) -> bool:
    return _clip(case, promise) and case.device != "cpu" and case.scale is not Scale.PROBE


def _unclaimed(case: Case, promise: Promise) -> bool:
    return not promise.claimed and case.scale is not Scale.PROBE


def _plays(scenario: Scenario) -> Callable[[Case, Promise], bool]:
    """Claimed cases of a scenario."""
    return lambda case, promise: promise.claimed and case.scenario is scenario


def _sequence(case: Case, promise: Promise) -> bool:
    """Claimed, and within reach of a hook of its kind."""
    sequence = None if case.scenario is None else SEQUENCES.get(case.scenario)
    return promise.claimed and sequence is not None and sequence.applies(case, promise)


def _plays_exactly(scenario: Scenario) -> Callable[[Case, Promise], bool]:
    """Who promises less admits a dependence on tiles; who falls back has none."""
    return lambda case, promise: (
        _plays(scenario)(case, promise)
        and promise.grade == Grade.EXACT
        and not may_run_untiled(case, promise)
    )


CHECKS: tuple[Check, ...] = (
    Check("call_contract", Tier.MINIMUM, check_call_contract, _claimed),
    Check("completes", Tier.MINIMUM, check_completes, _claimed),
    Check("output_shape", Tier.MINIMUM, check_output_shape, _claimed),
    Check("output_dtype", Tier.MINIMUM, check_output_dtype, _claimed),
    Check("output_device", Tier.MINIMUM, check_output_device, _claimed),
    Check("finite", Tier.MINIMUM, check_finite, _claimed),
    Check("tiles_ran", Tier.MINIMUM, check_tiles_ran, _claimed),
    Check("parity", Tier.RECOMMENDED, check_parity, _whole),
    Check("seams", Tier.RECOMMENDED, check_seams, _whole),
    Check("value_range", Tier.RECOMMENDED, check_value_range, _whole_decode),
    Check("colour_shift", Tier.RECOMMENDED, check_colour_shift, _whole),
    Check("batch_items", Tier.RECOMMENDED, check_batch_items, _several_items),
    Check("peak_vram", Tier.RECOMMENDED, check_peak_vram, _accelerated),
    Check("work", Tier.RECOMMENDED, check_work, _whole),
    Check("transfers", Tier.RECOMMENDED, check_transfers, _simulated, informs=True),
    Check("single_tile", Tier.RECOMMENDED, check_single_tile, _single_tile),
    Check("live_bytes", Tier.RECOMMENDED, check_live_bytes, _accelerated),
    Check("left_behind", Tier.RECOMMENDED, check_left_behind, _no_probe),
    Check("input_untouched", Tier.RECOMMENDED, check_input_untouched, _no_probe),
    Check("refusal", Tier.RECOMMENDED, check_refusal, _unclaimed),
    Check("mechanism", Tier.RECOMMENDED, check_mechanism, _probe),
    Check("settings", Tier.RECOMMENDED, check_settings, _plays(Scenario.SETTINGS)),
    Check("switches", Tier.RECOMMENDED, check_switches, _plays(Scenario.SWITCHES)),
    Check("tiny_tiles", Tier.RECOMMENDED, check_tiny_tiles, _plays(Scenario.TINY_TILES)),
    Check("out_of_memory", Tier.RECOMMENDED, check_out_of_memory, _plays(Scenario.OUT_OF_MEMORY)),
    Check("on_host", Tier.RECOMMENDED, check_on_host, _plays(Scenario.ON_HOST)),
    Check("clip_completes", Tier.ADVANCED, check_clip_completes, _clip),
    Check("video_parity", Tier.ADVANCED, check_video_parity, _clip),
    Check("flicker", Tier.ADVANCED, check_flicker, _jumping_clip),
    Check("cache_slots", Tier.ADVANCED, check_cache_slots, _bare_clip),
    Check("cache_sentinels", Tier.ADVANCED, check_cache_sentinels, _bare_clip),
    Check("cache_index", Tier.ADVANCED, check_cache_index, _bare_clip),
    Check("cache_aliases", Tier.ADVANCED, check_cache_aliases, _bare_clip),
    Check("cache_parked", Tier.ADVANCED, check_cache_parked, _metered_clip),
    Check("cache_phase", Tier.ADVANCED, check_cache_phase, _whole_clip),
    Check("memory_growth", Tier.ADVANCED, check_memory_growth, _long_clip),
    Check("sequence", Tier.ADVANCED, check_sequence, _sequence),
    Check("tile_size", Tier.ADVANCED, check_tile_size, _plays_exactly(Scenario.TILE_SIZE)),
    Check("oversize", Tier.ADVANCED, check_oversize, _plays_exactly(Scenario.OVERSIZE)),
    Check("partition", Tier.ADVANCED, check_partition, _plays_exactly(Scenario.PARTITION)),
    Check("shift", Tier.ADVANCED, check_shift, _plays_exactly(Scenario.SHIFT)),
    Check("batch_split", Tier.ADVANCED, check_batch_split, _plays(Scenario.BATCH_SPLIT)),
    Check("repeat", Tier.ADVANCED, check_repeat, _plays(Scenario.REPEAT)),
    Check("poison", Tier.ADVANCED, check_poison, _plays(Scenario.POISON)),
)
"""In the order in which they are told: runs, shape, dtype, place, values, cost, manners."""
