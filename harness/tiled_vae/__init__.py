"""The reference hook: exact tiling of VAEs. Needs torch alone."""

from .errors import TilingError
from .hook import VAEHook

__all__ = ["TilingError", "VAEHook"]
