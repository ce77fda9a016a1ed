"""Families: published facts of each architecture, as data, each with its source.

Each lineage has one file. A new family goes into the file of its lineage, and a new lineage into
the list below.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vae_compat.families import latent_diffusion, wan
from vae_compat.families.family import Chunking, Family, Norm

__all__ = ["FAMILIES", "Chunking", "Family", "Norm"]

_KNOWN = {family.name: family for family in (*latent_diffusion.FAMILIES, *wan.FAMILIES)}
FAMILIES: Mapping[str, Family] = MappingProxyType(_KNOWN)
"""The families by name, in the order in which they are listed and reported. Of each build the first
that is claimed runs the most cases, so a new one goes behind those of its build."""
