"""The list of all scenarios, and how each is performed and examined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from vae_compat.contracts.cases import Case, Scenario
from vae_compat.scenarios import calls, chunks, coders, repeats, settings, shift, tilings
from vae_compat.scenarios.chunks import CLIP_A, CLIP_B
from vae_compat.scenarios.clip import ClipScene
from vae_compat.scenarios.estimate import EstimateScene
from vae_compat.scenarios.out_of_memory import OUT_OF_MEMORY
from vae_compat.scenarios.relation import Relation
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.sequence import Sequence
from vae_compat.scenarios.shortage import PLENTY
from vae_compat.scenarios.strip import Strip
from vae_compat.scenarios.usage import Usage


def _directions(case: Case) -> tuple[Case, ...]:
    """The case, and that of the other direction."""
    return case, case.turned


def _two_sizes(case: Case) -> tuple[Case, ...]:
    """The case, and one of another size and shape that also has to be tiled."""
    return case, replace(case, height=case.width + 2, width=case.height + 1)


def _one_clip(case: Case) -> Mapping[str, Case]:
    return {CLIP_A: case}


def _clip_a_way(case: Case) -> Mapping[str, Case]:
    """A clip in the direction of the case, and one in the other."""
    return {CLIP_A: case, CLIP_B: case.turned}


SEQUENCES: Mapping[Scenario, Sequence] = MappingProxyType(
    {
        Scenario.TWICE: Sequence(calls.twice),
        Scenario.SIZES: Sequence(calls.sizes, cases=_two_sizes),
        Scenario.STREAMS: Sequence(chunks=chunks.streams),
        Scenario.CLEARED: Sequence(chunks=chunks.cleared),
        Scenario.TURNS: Sequence(chunks=chunks.turns, clips=_one_clip, mixed=True),
        Scenario.TAKEN_OFF: Sequence(
            calls.off_and_on, chunks.off_midway, clips=_one_clip, mixed=True
        ),
        Scenario.INTERRUPTED: Sequence(calls.interrupted, mirrored=True),
        Scenario.BOTH_WAYS: Sequence(
            calls.in_turn, chunks.in_turn, cases=_directions, clips=_clip_a_way
        ),
    }
)
RELATIONS: Mapping[Scenario, Relation] = MappingProxyType(
    {
        Scenario.TILE_SIZE: tilings.TILE_SIZE,
        Scenario.OVERSIZE: tilings.OVERSIZE,
        Scenario.PARTITION: tilings.PARTITION,
        Scenario.BATCH_SPLIT: repeats.BATCH_SPLIT,
        Scenario.REPEAT: repeats.REPEAT,
        Scenario.POISON: repeats.POISON,
        Scenario.SHIFT: shift.SHIFT,
    }
)
USAGES: Mapping[Scenario, Usage] = MappingProxyType(
    {
        Scenario.SETTINGS: settings.SETTINGS,
        Scenario.SWITCHES: settings.SWITCHES,
        Scenario.TINY_TILES: settings.TINY_TILES,
        Scenario.ON_HOST: settings.ON_HOST,
        Scenario.OUT_OF_MEMORY: OUT_OF_MEMORY,
        Scenario.OVERLAPS: settings.OVERLAPS,
        Scenario.TEMPORAL: settings.TEMPORAL,
        Scenario.INFERENCE_MODE: settings.INFERENCE_MODE,
        Scenario.PLENTY: PLENTY,
        Scenario.OFFLOADED: coders.OFFLOADED,
        Scenario.STATIC: coders.STATIC,
        Scenario.PATCHED: coders.PATCHED,
    }
)
SCENES: Mapping[Scenario, Scene] = MappingProxyType(
    {
        Scenario.CLIP: ClipScene(),
        Scenario.STRIP: Strip(),
        Scenario.ESTIMATE: EstimateScene(),
        **SEQUENCES,
        **RELATIONS,
        **USAGES,
    }
)
