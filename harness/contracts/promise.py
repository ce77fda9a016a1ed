"""What a hook promises of a case."""

from __future__ import annotations

from dataclasses import dataclass

from vae_compat.contracts.cases import Direction


@dataclass(frozen=True)
class Promise:
    """What the profile says of a case."""

    claimed: bool = True
    grade: str = "exact"
    cache: str = "none"
    kind: str = "forward"

    def by_noise(self, direction: Direction) -> bool:
        """Whether the noise of the VAE bounds the error.

        It does so for moments without loss as well, and where nothing is claimed, so that only the
        untiled result will do.
        """
        moments = self.grade == "lossless" and direction is Direction.ENCODE
        return self.grade == "exact" or moments or not self.claimed
