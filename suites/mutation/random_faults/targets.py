"""The sound hooks in which faults are planted, and the level of a fault in each function."""

from __future__ import annotations

from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.suites.mutation.random_faults.faults import Target
from vae_compat.suites.mutation.trial import profile_of, reference

_REFERENCE = (
    ("line_buffer.run_buffered", "tile"),
    ("line_buffer.advance", "tile"),
    ("line_buffer.*", "halo"),
    ("window.*", "halo"),
    ("layers.normalised", "statistics"),
    ("layers.group_normalised", "statistics"),
    ("layers.over_time", "cache"),
    ("layers.*", "halo"),
    ("statistics.*", "statistics"),
    ("attention.*", "statistics"),
    ("interpose.*", "statistics"),
    ("job.Job.moments", "statistics"),
    ("caches.*", "cache"),
    ("call_protocol.*", "cache"),
    ("job.Job.time_*", "cache"),
    ("job.Job.remember", "cache"),
    ("job.Job.kept", "cache"),
    ("planes.*", "merge"),
    ("BandPlane.*", "merge"),
    ("bands.*", "merge"),
    ("Arena.*", "merge"),
    ("OffloadedRows.*", "merge"),
    ("Reader.*", "merge"),
    ("Writer.*", "merge"),
    ("job.*", "merge"),
    ("hook.VAEHook.item", "merge"),
    ("hook.VAEHook.tiled", "merge"),
    ("hook.VAEHook.partition", "tile"),
    ("hook.VAEHook.side", "tile"),
    ("tiles.*", "tile"),
    ("plan.*", "tile"),
    ("bandplan.*", "tile"),
    ("budget.*", "tile"),
    ("recompute.*", "tile"),
    ("run.*", "tile"),
    ("segments.*", "tile"),
    ("hook.*", "install"),
    ("calls.*", "install"),
    ("translate.*", "install"),
    ("*front_end*", "install"),
    ("builder.*", "install"),
    ("modules.*", "install"),
    ("steps.*", "install"),
)
_RESTING = (
    ("resting.grid", "tile"),
    ("resting.Box.*", "tile"),
    ("resting.RestingTiler.sides", "tile"),
    ("resting.RestingTiler.convolve", "tile"),
    ("resting.RestingTiler._tiled", "merge"),
    ("resting.RestingTiler.window", "halo"),
    ("resting.RestingTiler.normalise", "statistics"),
    ("resting.RestingTiler.attend", "statistics"),
    ("resting.RestingTiler.__*", "install"),
    ("resting.RestingTiler._*", "merge"),
)


def targets() -> dict[str, Target]:
    """The targets by short names."""
    resting = profile_of(SPECIMENS["resting"])
    return {
        "reference": Target(reference(), "vae_compat.tiled_vae", ":VAEHook", _REFERENCE),
        "resting": Target(
            resting, "vae_compat.fixtures.specimens", "resting:RestingTiler", _RESTING
        ),
    }
