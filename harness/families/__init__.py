"""Families: published facts of each architecture, as data, each with its source.

One file a lineage. A family is added to the file of its lineage, a lineage to the list below.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vae_compat.families import latent_diffusion, wan
from vae_compat.families.family import Chunking, Family, Norm

__all__ = ["FAMILIES", "Chunking", "Family", "Norm"]

_KNOWN = {family.name: family for family in (*latent_diffusion.FAMILIES, *wan.FAMILIES)}
FAMILIES: Mapping[str, Family] = MappingProxyType(_KNOWN)
"""The families by name, in the order in which they are listed and reported. New ones go last: the
covering selection deals variations out by this order."""
