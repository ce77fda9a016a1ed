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
    axes: str = "both"
    """Along which sides of a plane it cuts: ``both``, ``height`` or ``width``."""

    def longest(self, case: Case) -> int:
        """The longest side of a plane that the hook cuts along, in latent pixels."""
        sides = {"height": case.height, "width": case.width}
        return sides.get(self.axes, max(sides.values()))

    def by_noise(self, direction: Direction) -> bool:
        """Whether the error must stay within the VAE's own noise.

        Grade ``exact`` demands this, and so does ``lossless`` for moments, because they have no
        8-bit levels. Where nothing is claimed, only the untiled result is right.
        """
        moments = self.grade == "lossless" and direction is Direction.ENCODE
        return self.grade == "exact" or moments or not self.claimed
