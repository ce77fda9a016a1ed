"""The reference hook as two nodes of ComfyUI: put this in ``custom_nodes`` or import it there.

ComfyUI is imported when a node runs, so that the package needs torch alone.
"""

from __future__ import annotations

from typing import Any

from .context import tiled

SIZE = ("INT", {"default": 0, "min": 0, "max": 8192, "step": 64})
BUDGET = ("STRING", {"default": ""})


class ExactTiledNode:
    """What encode and decode share: the size of a tile (0: any) and the memory to spend."""

    CATEGORY = "latent"
    FUNCTION = "run"

    def settings(self, tile_size: int, max_vram: str) -> dict[str, Any]:
        """Arguments of `tiled`, with ComfyUI's bar of progress."""
        import comfy.utils  # type: ignore[import-not-found]

        bar = comfy.utils.ProgressBar(1)
        return {
            "tile_size": tile_size or None,
            "max_vram": max_vram or None,
            "progress": bar.update_absolute,
        }


class ExactTiledDecode(ExactTiledNode):
    """Latent to image, equal to the untiled decode."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """What the node takes."""
        kinds = {"samples": ("LATENT",), "vae": ("VAE",), "tile_size": SIZE, "max_vram": BUDGET}
        return {"required": kinds}

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
        kinds = {"pixels": ("IMAGE",), "vae": ("VAE",), "tile_size": SIZE, "max_vram": BUDGET}
        return {"required": kinds}

    def run(self, pixels: Any, vae: Any, tile_size: int, max_vram: str) -> tuple[Any]:
        """Encode."""
        with tiled(vae, **self.settings(tile_size, max_vram)):
            return ({"samples": vae.encode(pixels[..., :3])},)


NODE_CLASS_MAPPINGS = {
    "ExactTiledDecode": ExactTiledDecode,
    "ExactTiledEncode": ExactTiledEncode,
}
