"""The reference hook: exact tiling of VAEs. Needs torch alone.

On a VAE of diffusers::

    with tiled(vae, tile_size=512):
        image = vae.decode(latents).sample

or, in place of a published hook, on one coder: see `VAEHook`.
"""

from .context import tiled
from .errors import TilingError
from .hook import VAEHook

__all__ = ["TilingError", "VAEHook", "tiled"]
