"""Which families the installed diffusers can build."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata

from packaging.version import Version

from vae_compat.families import FAMILIES


@cache
def left_out() -> Mapping[str, str]:
    """Families that the installed diffusers has no class for, and a sentence that says so.

    Only the number of its release is read, because importing it takes seconds.
    """
    release = metadata.version("diffusers")
    return {
        name: f"{name} is left out: it needs diffusers {family.since} or later, and {release} is"
        " installed"
        for name, family in FAMILIES.items()
        if Version(release).release < Version(family.since).release
    }


def installed_families() -> tuple[str, ...]:
    """Families that the installed diffusers can build, in the order of `FAMILIES`."""
    return tuple(name for name in FAMILIES if name not in left_out())
