"""The bugs of the gallery: published, rebuilt here from their mechanism, and seen in a picture."""

from __future__ import annotations

from dataclasses import dataclass

from vae_compat.fixtures.specimens import SPECIMENS, Specimen


@dataclass(frozen=True)
class Bug:
    """A published bug, and the hook here that has it and no other."""

    title: str
    hook: str
    """Name of the known-bad hook."""
    source: str
    """Where it was reported."""
    told: str
    """What goes wrong, and what is seen of it."""

    @property
    def specimen(self) -> Specimen:
        """The known-bad hook."""
        return SPECIMENS[self.hook]

    @property
    def profile(self) -> str:
        """Its profile, as TOML: it is judged as if it promised the VAE's own picture."""
        known = self.specimen
        return (
            f'[hook]\nname = "{known.name}"\nentry = "{known.entry}"\nkind = "{known.kind}"\n'
            f'layout = "{known.layout}"\n[claims]\nfamilies = ["{FAMILY}"]\n'
            f'directions = ["decode"]\nmodes = ["exact"]\n[claims.grade]\nexact = "exact"\n'
        )


FAMILY = "sd"
"""All of them are shown with the trained VAE of this family."""
BUGS = (
    Bug(
        "Statistics of each tile",
        "per-tile-statistics",
        "Kahsolt/stable-diffusion-webui-vae-tile-infer#3",
        "GroupNorm takes mean and variance of one tile instead of the whole picture, so that every"
        " tile has a contrast and a colour of its own.",
    ),
    Bug(
        "A halo that is too short",
        "short-halo",
        "pkuliyi2015/multidiffusion-upscaler-for-automatic1111 and its descendants",
        "Tiles are cut with fewer pixels around them than their convolutions read: along every"
        " border of a tile zeros have taken the place of its neighbours.",
    ),
    Bug(
        "A tone for every tile",
        "tone-per-tile",
        "Blaizzy/mlx-vlm#1381",
        "Each tile is normalised by itself once it is decoded, and its brightness follows its"
        " content: a chessboard of tones.",
    ),
    Bug(
        "A blend that is out of step",
        "blend-window-misaligned",
        "huggingface/diffusers#3384",
        "The loop that blends two tiles stops at the edge of the smaller one, its offset does not:"
        " what is faded into each other is not the same place of the picture. (A hook of this kind"
        " sends each tile through the whole VAE, so that a little differs everywhere.)",
    ),
    Bug(
        "Corners blended along one axis",
        "corner-blend",
        "leejet/stable-diffusion.cpp#353",
        "Where four tiles meet, only two of them are faded into each other, and a step is left in"
        " the corner. (A hook of this kind, too, differs a little everywhere.)",
    ),
)
