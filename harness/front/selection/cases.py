"""The cases that a run of the hooks under test would make."""

from __future__ import annotations

from collections.abc import Sequence

from vae_compat.contracts.cases import Case, Layout
from vae_compat.families import FAMILIES
from vae_compat.families.installed import left_out
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.subjects import HookUnderTest
from vae_compat.matrix import generate
from vae_compat.subject.profile import Kind


def cases_of(
    under_test: HookUnderTest, options: Options, *, full: bool, anywhere: bool = False
) -> tuple[Case, ...]:
    """The matrix of a hook, claimed and unclaimed, before any filter: what a run would make.

    With ``anywhere`` that of every family, whether it can be built here or not.
    """
    from vae_compat.device import open_device  # imports torch

    profile = under_test.profile
    return generate(
        profile.claims,
        Layout(profile.hook.layout),
        options.device,
        open_device(options.device).dtypes,
        full=full,
        unclaimed_modes=under_test.facts.offered_modes,
        families=FAMILIES.keys() if anywhere else None,
        in_ranks=profile.hook.kind is Kind.RANKS,
    )


def left_out_of(found: Sequence[HookUnderTest], options: Options) -> tuple[str, ...]:
    """A sentence for each family that was asked for and that the installed diffusers lacks."""
    claimed = {family for under in found for family in under.profile.claims.families}
    asked = claimed & set(options.families or FAMILIES)
    return tuple(sentence for name, sentence in left_out().items() if name in asked)
