"""What fixtures supply is made when it is needed."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

from vae_compat.contracts.cases import Layout
from vae_compat.families import FAMILIES
from vae_compat.fixtures import supplies
from vae_compat.fixtures.layouts import VARIANTS
from vae_compat.measure.models import ModelFiles, Models
from vae_compat.suites.selftest.measure_fakes import CASE


def test_a_variant_is_made_when_it_is_first_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def view(*_: object, variant: str) -> str:
        made.append(variant)
        return variant

    monkeypatch.setattr(supplies, "view", view)
    views = supplies.Fixtures().views(nn.Identity(), Layout.WAN, FAMILIES["qwen"])
    assert (views[0], len(views), made) == (VARIANTS[0], len(VARIANTS), [VARIANTS[0]])
    assert [*views] == [*views[:]] == [*VARIANTS] == made


class Simple:
    """A VAE of one layer, of which each view is another object."""

    def build(self, _: object) -> nn.Module:
        return nn.Linear(2, 2)

    def truth(self, vae: nn.Module) -> nn.Module:
        return deepcopy(vae).double()

    def views(self, *_: object) -> tuple[object, ...]:
        return (object(),)


def test_views_are_kept_where_no_hook_is_put_on_them() -> None:
    judge, half = Models(cast(Any, Simple())), replace(CASE, dtype="bfloat16")
    first, other = judge.view(CASE), judge.view(half)
    assert judge.view(CASE) is first is not other is judge.view(half)
    assert judge.twin(CASE) is judge.twin(CASE) is not first
    assert judge.truth(CASE).weight.dtype == torch.float64
    runner = Models(cast(Any, Simple()), cast(ModelFiles, Simple()))
    assert runner.view(CASE) is not runner.view(CASE)
    assert runner.vae(CASE) is runner.vae(CASE)
