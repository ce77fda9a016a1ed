"""The reference hook as two nodes of ComfyUI.

A file in ``custom_nodes`` with one line installs them::

    from vae_compat.tiled_vae.comfyui import NODE_CLASS_MAPPINGS

ComfyUI is imported when a node runs: this package needs torch alone.
"""

from __future__ import annotations

from typing import Any

from .context import tiled

TILE_SIZE = ("INT", {"default": 512, "min": 0, "max": 8192, "step": 64})
"""In image pixels; 0 leaves it to the budget."""

MAX_VRAM = ("STRING", {"default": ""})
"""Beyond the weights, such as ``4GiB``; empty for no bound."""


class ExactTiledNode:
    """What both nodes share."""

    CATEGORY = "latent"
    FUNCTION = "run"

    def settings(self, tile_size: int, max_vram: str) -> dict[str, Any]:
        """Arguments of `tiled`, with ComfyUI's progress bar."""
        import comfy.utils  # type: ignore[import-not-found]

        return {
            "tile_size": tile_size or None,
            "max_vram": max_vram or None,
            "progress": comfy.utils.ProgressBar(1).update_absolute,
        }


class ExactTiledDecode(ExactTiledNode):
    """Latent to image, equal to the untiled decode."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """What the node takes."""
        inputs = {"samples": ("LATENT",), "vae": ("VAE",)}
        return {"required": {**inputs, "tile_size": TILE_SIZE, "max_vram": MAX_VRAM}}

    def run(self, samples: Any, vae: Any, tile_size: int, max_vram: str) -> tuple[Any]:
        """Decode."""
        with tiled(vae, **self.settings(tile_size, max_vram)):
            return (vae.decode(samples["samples"]),)


class ExactTiledEncode(ExactTiledNode):
    """Image to latent, equal to the untiled encode."""

    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """What the node takes."""
        inputs = {"pixels": ("IMAGE",), "vae": ("VAE",)}
        return {"required": {**inputs, "tile_size": TILE_SIZE, "max_vram": MAX_VRAM}}

    def run(self, pixels: Any, vae: Any, tile_size: int, max_vram: str) -> tuple[Any]:
        """Encode."""
        with tiled(vae, **self.settings(tile_size, max_vram)):
            return ({"samples": vae.encode(pixels[..., :3])},)


NODE_CLASS_MAPPINGS = {
    "ExactTiledDecode": ExactTiledDecode,
    "ExactTiledEncode": ExactTiledEncode,
}
