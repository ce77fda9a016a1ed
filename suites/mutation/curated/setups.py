"""The ways in which the hook is judged with a mutation: as a run has it, and as its users have it.

``nox -s compat`` puts it on one coder, in tiles of a given size. That never leads to the clips of
whole VAEs, nor to planes that are offloaded because memory is short.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from vae_compat.contracts.cases import Case
from vae_compat.front.run.session import Run
from vae_compat.scenarios.asking import Ask
from vae_compat.scenarios.runners import InProcess
from vae_compat.subject.hook import Hook
from vae_compat.subject.profile import Profile, profile_from_flags
from vae_compat.suites.mutation.copies import Copy
from vae_compat.suites.mutation.trial import Tried, joined, reference, tried


@dataclass(frozen=True)
class Setup:
    """A profile, what of the package is put on the VAE, and how much memory there is."""

    profile: Profile
    entry: Callable[[Any], Any]
    """Of the package, or of a copy."""
    share: float | None = None
    """Of the memory that untiled takes beyond the weights; ``None`` for plenty."""

    def tried(self, name: str, copy: Copy) -> Tried:
        """A copy of the hook, as a run takes it."""
        profile = replace(self.profile, hook=replace(self.profile.hook, name=name))
        source = Loaded(self.entry(sys.modules[copy.name]))
        return tried(profile, Hook.of(profile.hook, source, source.entry))

    def run(self, run: Run, subject: Tried, case: Case) -> Run:
        """A run of the subject alone, over the baselines of another run.

        It has all cases, so that the same ones as in a whole run are called in every way.
        """
        made = joined(run, {subject.hook.name: subject}, run.cases[self.profile.hook.name])
        if self.share is not None:
            made.runners = Short(made.runners, self.capacity(made, case))
        return made

    def capacity(self, run: Run, case: Case) -> int:
        """Bytes of memory, those of the weights included."""
        baseline = run.bench.baseline(case)
        weights, peak = baseline.weight_bytes, baseline.reading.peak_bytes
        assert peak is not None
        assert self.share is not None
        return weights + int(self.share * (peak - weights))


@dataclass(frozen=True)
class Loaded:
    """Where a hook comes from that is loaded already."""

    entry: Any

    @contextmanager
    def loaded(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[Any]:
        """The entry."""
        del device, dtype
        yield self.entry


@dataclass(frozen=True)
class Short:
    """Has cases performed with so much memory."""

    runners: InProcess
    capacity: int

    def perform(self, name: str, ask: Ask, kind: Any) -> Any:
        """What a hook does of a case."""
        return self.runners.perform(name, replace(ask, capacity=self.capacity), kind)

    def printed(self, name: str) -> str:
        """What the hook printed."""
        return self.runners.printed(name)


def in_short_memory(package: Any) -> Any:
    """Tiles as large as the free memory allows, as without a tile size."""

    def hook(net: Any, tile_size: int, is_decoder: bool) -> Any:
        made = package.VAEHook(net, tile_size, is_decoder)
        made.tile_is_default = True
        return made

    return hook


def on_whole_vaes(package: Any) -> Any:
    """On a VAE of diffusers, above its loop over frames."""

    def hook(vae: Any, tile_size: int) -> Any:
        return package.tiled(vae, tile_size, method="bands")

    return hook


def setups() -> dict[str, Setup]:
    """By name."""
    short = profile_from_flags(
        "vae_compat.tiled_vae:VAEHook", name="short", families=["sd"], modes=["exact"]
    )
    whole = profile_from_flags(
        "vae_compat.tiled_vae:tiled", "vae", name="whole", families=["wan21"], modes=["exact"]
    )
    return {
        "reference": Setup(reference(), lambda package: package.VAEHook),
        "short": Setup(short, in_short_memory, 0.4),
        "whole": Setup(whole, on_whole_vaes),
    }
