"""Changes to a VAE are found and undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vae_compat.device import open_device
from vae_compat.subject.state import Change, snapshot


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        self.size = 3
        self.shape = torch.Size([2, 3])
        self.cache: list[Any] = [None, {"a": [1]}]
        self.maker = len
        for parameter in self.parameters():
            parameter.data.fill_(0.5)  # survives a cast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = Inner()
        self.config = {"size": 1}


def weight(vae: Any) -> nn.Parameter:
    return vae.decoder.conv.weight


def edit_weight(vae: Any) -> None:
    with torch.no_grad():
        weight(vae).add_(1)


def replace_weight(vae: Any) -> None:
    vae.decoder.conv.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))


def grow_gradient(vae: Any) -> None:
    weight(vae).sum().backward()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "decoder.last_z_shape was added": lambda v: setattr(v.decoder, "last_z_shape", (1, 2)),
    "decoder.forward was added": lambda v: setattr(v.decoder, "forward", print),
    "decoder.size was changed from 3 to 4": lambda v: setattr(v.decoder, "size", 4),
    "decoder.size was replaced": lambda v: setattr(v.decoder, "size", "three"),
    "decoder.size was removed": lambda v: delattr(v.decoder, "size"),
    "decoder.maker was replaced": lambda v: setattr(v.decoder, "maker", sum),
    "decoder.cache was changed": lambda v: v.decoder.cache[1]["a"].append(2),
    "decoder.training was changed from True to False": lambda v: v.decoder.eval(),
    "decoder.conv.padding was changed": lambda v: setattr(v.decoder.conv, "padding", (1, 0)),
    "decoder.conv.stride was changed": lambda v: setattr(v.decoder.conv, "stride", (1, True)),
    "config was changed": lambda v: v.config.update(size=2),
    "decoder.conv.weight (parameter) was replaced": replace_weight,
    "decoder.conv.weight (parameter) was changed in place": edit_weight,
    "decoder.conv.weight (parameter) had requires_grad changed to False": lambda v: weight(
        v
    ).requires_grad_(False),
    "decoder.conv.weight (parameter) was given a gradient": grow_gradient,
    "decoder.conv.weight (parameter) was cast from torch.float32 to torch.float16": lambda v: (
        v.decoder.conv.half()
    ),
    "decoder.norm.running_mean (buffer) was replaced": lambda v: v.decoder.norm._buffers.update(
        running_mean=torch.zeros(1)
    ),
    "decoder.extra (submodule) was added": lambda v: v.decoder.add_module("extra", nn.ReLU()),
    "decoder.norm (submodule) was removed": lambda v: delattr(v.decoder, "norm"),
    "decoder.norm (submodule) was replaced": lambda v: setattr(v.decoder, "norm", nn.ReLU()),
    "decoder.(forward hook) was left registered": lambda v: v.decoder.register_forward_hook(print),
    "decoder.(forward pre-hook) was left registered": lambda v: v.decoder.register_forward_pre_hook(
        print
    ),
    "class Inner.forward was replaced": lambda _: setattr(Inner, "forward", print),
    "class Inner.tiled was added": lambda _: setattr(Inner, "tiled", print),
}
BEYOND_REPAIR = "in place"


@pytest.mark.parametrize("words", CHANGES)
def test_a_change_is_named_and_undone(words: str) -> None:
    vae = VAE()
    before = snapshot(vae)
    assert before.differences() == ()
    left: tuple[str, ...] = ()
    try:
        CHANGES[words](vae)
        found = before.differences()
    finally:
        before.restore()
        left = before.differences()
    assert words in found
    if words.endswith(BEYOND_REPAIR):
        assert words in left
    else:
        assert left == ()
        assert before.differences() == ()
        assert vae.decoder.forward(torch.ones(1)).item() == 1
        assert vae.decoder.cache == [None, {"a": [1]}]


def test_weights_that_lost_precision_on_a_round_trip_are_seen() -> None:
    vae = VAE()
    vae.decoder.conv.weight.data.fill_(1 / 3)
    before = snapshot(vae)
    vae.half().float()
    words = "decoder.conv.weight (parameter) was changed in place"
    assert words in before.differences()
    before.restore()
    assert words in before.differences()


def test_a_change_behind_the_version_counter_is_seen() -> None:
    vae = VAE()
    before = snapshot(vae)
    weight(vae).data.zero_()
    assert before.differences() == ("decoder.conv.weight (parameter) was changed in place",)


@pytest.mark.parametrize("change", ["data", "storage", "precision"])
def test_such_a_change_on_the_simulated_accelerator_is_seen(change: str) -> None:
    vae = VAE()
    with open_device("sim") as device:
        device.place(vae)
        weight(vae).data.fill_(1 / 3)
        before = snapshot(vae)
        assert before.differences() == ()
        if change == "data":
            weight(vae).data.mul_(1.001)
        elif change == "storage":
            torch.as_strided(weight(vae).data, (1,), (1,)).zero_()
        else:
            vae.half().float()
        words = "decoder.conv.weight (parameter) was changed in place"
        assert words in before.differences()


def test_an_equal_value_is_no_change() -> None:
    vae = VAE()
    before = snapshot(vae)
    vae.decoder.size = 3
    vae.decoder.cache = [None, {"a": [1]}]
    vae.decoder.conv.padding = (0, 0)
    vae.decoder.shape = torch.Size([2, 3])
    vae.float().to("cpu")
    vae.train(True)
    vae.decoder.register_forward_hook(print).remove()
    assert before.differences() == ()


def test_lists_come_back_as_the_same_object() -> None:
    vae = VAE()
    cache = vae.decoder.cache
    before = snapshot(vae)
    cache.clear()
    vae.decoder.cache = []
    before.restore()
    assert vae.decoder.cache is cache
    assert cache == [None, {"a": [1]}]


def test_expected_changes_are_left_out_by_their_place() -> None:
    vae = VAE()
    before = snapshot(vae)
    vae.decoder.feat_map = [torch.ones(1)]
    expected = before.changes()
    assert expected == (Change("decoder", "feat_map"),)
    before.restore()
    vae.decoder.feat_map = [torch.zeros(2)]
    vae.decoder.other = 1
    assert before.differences(expected) == ("decoder.other was added",)


def test_coders_outside_the_vae_are_watched_too() -> None:
    vae, outside = VAE(), Inner()
    before = snapshot(vae, encoder=outside, decoder=vae.decoder)
    outside.size = 9
    assert before.differences() == ("encoder.size was changed from 3 to 9",)
