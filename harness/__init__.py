"""vae-compat: does a tiled VAE still equal the VAE, and does it really save VRAM?

``check_hook`` judges a hook, ``parametrize_hook`` does so in tests; ``tiled`` and ``VAEHook`` are
the reference hook. Each is imported when it is first asked for, and the hook where torch is not
there yet when it is first used: importing this package, or any of these, takes no seconds.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_compat.errors import StoppedError, UsageError
    from vae_compat.front.adopting.parametrizing import parametrize_hook
    from vae_compat.front.api import HookFailureError, Report, ReportedFinding, check_hook
    from vae_compat.tiled_vae import TilingError, VAEHook, tiled

__all__ = [
    "HookFailureError",
    "Report",
    "ReportedFinding",
    "StoppedError",
    "TilingError",
    "UsageError",
    "VAEHook",
    "check_hook",
    "parametrize_hook",
    "tiled",
]
_PLACES = {
    **dict.fromkeys(("StoppedError", "UsageError"), "errors"),
    **dict.fromkeys(("HookFailureError", "Report", "ReportedFinding", "check_hook"), "front.api"),
    "parametrize_hook": "front.adopting.parametrizing",
    **dict.fromkeys(("TilingError", "VAEHook", "tiled"), "tiled_vae"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = f"{__name__}.{_PLACES[name]}"
    if name in ("VAEHook", "tiled") and "torch" not in sys.modules:
        return import_module(f"{__name__}.deferred").Deferred(place, name)
    found = getattr(import_module(place), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
