"""Clips through a mock VAE, with hooks that do one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale, Scenario
from vae_compat.contracts.finding import Finding
from vae_compat.contracts.promise import Promise
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.measure.bench import Bench
from vae_compat.measure.models import Models
from vae_compat.scenarios.clip import ClipObserved, ClipScene
from vae_compat.scenarios.stage import Stage
from vae_compat.suites.selftest.measure_fakes import FakeHook

CLIP = Case(
    "qwen",
    Scale.MOCK,
    Layout.DIFFUSERS,
    Direction.DECODE,
    Mode.EXACT,
    4,
    6,
    16,
    frames=3,
    scenario=Scenario.CLIP,
)

Change = Callable[[Any, Any, Any, int], Any]
"""Result, cache list, index list and the number of the call -> another result, or ``None``."""


def after(change: Change) -> FakeHook:
    """A hook that calls the original and then changes something."""
    count = 0

    def hook(original: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        names = ("feat_cache", "feat_idx")
        given = dict(zip(names, args, strict=False)) | kwargs
        cache = given.get("feat_cache")
        count = 0 if cache is None or all(slot is None for slot in list(cache)) else count + 1
        result = original(x, *args, **kwargs)
        other = change(result, cache, given.get("feat_idx"), count)
        return result if other is None else other

    return FakeHook(hook)


def plain() -> FakeHook:
    """A hook that falls back: calls the original and nothing else."""
    return after(lambda *_: None)


def played(
    bench: Bench, hook: FakeHook, *, cache: str = "fallback", grade: str = "exact", **case: Any
) -> ClipObserved:
    """Run a clip with a hook and return what was observed."""
    clip = replace(CLIP, **case)
    promise = Promise(cache=cache, grade=grade, kind=hook.kind, parks=cache == "split")
    stage = Stage(clip, promise, hook, Models(Fixtures()), seconds=60)
    scene = ClipScene()
    return scene.examine(clip, promise, scene.perform(stage), bench)


def told(finding: Finding) -> str:
    """The message of a failed finding."""
    assert finding.status == "failed", finding
    return finding.message
