"""What fixtures supply is made when it is needed."""

from __future__ import annotations

import pytest
from torch import nn

from vae_compat.contracts.cases import Layout
from vae_compat.families import FAMILIES
from vae_compat.fixtures import supplies
from vae_compat.fixtures.layouts import VARIANTS


def test_a_variant_is_made_when_it_is_first_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def view(*_: object, variant: str) -> str:
        made.append(variant)
        return variant

    monkeypatch.setattr(supplies, "view", view)
    views = supplies.Fixtures().views(nn.Identity(), Layout.WAN, FAMILIES["qwen"])
    assert (views[0], len(views), made) == (VARIANTS[0], len(VARIANTS), [VARIANTS[0]])
    assert [*views] == [*views[:]] == [*VARIANTS] == made
