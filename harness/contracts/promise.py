"""What a hook promises of a case."""

from __future__ import annotations

from dataclasses import dataclass

from vae_compat.contracts.cases import Case, Direction


@dataclass(frozen=True)
class Promise:
    """What the profile says of a case."""

    claimed: bool = True
    grade: str = "exact"
    cache: str = "none"
    kind: str = "forward"
    overlap: bool = False
    """Whether the overlap of tiles can be set."""
    parks: bool = False
    """Whether split caches are offloaded between chunks."""
    when: str = "always"
    """When the hook tiles: ``always``, or where ``memory`` is short."""
    coders: tuple[str, ...] = ()
    """Coders on which the hook works, besides plain ones."""
    context: str = ""
    """How the host calls it: ``no_grad``, ``inference_mode``; empty where either must do."""

    @property
    def tiles_when_short(self) -> bool:
        """Whether the hook tiles only where untiled does not fit."""
        return self.when == "memory"

    def is_short(self, case: Case) -> bool:
        """Whether the case runs on a device that is too small for untiled.

        Only the simulated accelerator can be made so small. Scenarios set its capacity themselves.
        """
        alone = case.scenario is None and case.device == "sim"
        return self.tiles_when_short and self.claimed and alone and case.must_tile

    def by_noise(self, direction: Direction) -> bool:
        """Whether the error must stay within the VAE's own noise.

        Grade ``exact`` demands this, and so does ``lossless`` for moments, because they have no
        8-bit levels. Where nothing is claimed, only the untiled result is right.
        """
        moments = self.grade == "lossless" and direction is Direction.ENCODE
        return self.grade == "exact" or moments or not self.claimed
