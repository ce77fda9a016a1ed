"""A tiled chunk leaves in causal caches what an untiled chunk leaves there."""

from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_compat.device import open_device
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.layouts.conventions import count_slots
from vae_compat.fixtures.vaes import build
from vae_compat.tiled_vae import VAEHook

pytestmark = pytest.mark.slow

CODERS = [
    (family, layout, name)
    for family in ("qwen", "wan22")
    for layout in ("diffusers", "wan")
    for name in ("encoder", "decoder")
]


@cache
def coder(family: str, layout: str, name: str, variant: str = "original") -> nn.Module:
    net = getattr(view(build(family, "mock"), layout, FAMILIES[family], variant=variant), name)
    assert isinstance(net, nn.Module)
    return net


def chunks(net: nn.Module, name: str, clips: int = 3, *, high: int = 1) -> list[Tensor]:
    """The first frame of a clip, then as many frames at a time as the coder takes.

    Squares, or ``high`` times as high: a clip of no more than two rows of tiles is offloaded.
    """
    first = net.conv_in if hasattr(net, "conv_in") else net.conv1
    side, step = (4, 1) if name == "decoder" else (32, 4)
    generator = torch.Generator().manual_seed(3)
    counts = [1] + [step] * (clips - 1)
    return [
        torch.randn(1, first.in_channels, count, high * side, side, generator=generator)
        for count in counts
    ]


@contextmanager
def tiling(net: nn.Module, name: str, **settings: Any):
    net.original_forward = net.forward
    tile = 3 if name == "decoder" else 16
    net.forward = VAEHook(net, tile_size=tile, is_decoder=name == "decoder", **settings)
    try:
        yield net.forward
    finally:
        del net.forward, net.original_forward


class Stream:
    """A clip that is sent chunk by chunk, with its cache list."""

    def __init__(self, net: nn.Module, name: str) -> None:
        self.net, self.name = net, name
        self.cache: list[Any] = [None] * count_slots(net)
        self.first = True

    def send(self, chunk: Tensor, tiled: bool) -> tuple[Tensor, int]:
        index = [0]
        extra = {}
        if self.name == "decoder" and "first_chunk" in type(self.net).forward.__code__.co_varnames:
            extra["first_chunk"] = self.first
        self.first = False
        with torch.no_grad():
            if not tiled:
                return self.net(chunk, self.cache, index, **extra), index[0]
            tiles: list[int] = []
            with tiling(self.net, self.name, progress=lambda done, _: tiles.append(done)) as hook:
                out = self.net(chunk, self.cache, index, **extra)
            assert not hook.reasons
            assert len(tiles) > 4
            return out, index[0]


def assert_same(got: Any, plain: Any) -> None:
    if isinstance(plain, list):
        assert isinstance(got, list)
        for one, other in zip(got, plain, strict=True):
            assert_same(one, other)
    elif isinstance(plain, Tensor):
        assert isinstance(got, Tensor)
        assert (got.shape, got.dtype) == (plain.shape, plain.dtype)
        assert torch.allclose(got, plain, rtol=1e-3, atol=1e-4)
    else:
        assert type(got) is type(plain)
        assert got == plain


@pytest.mark.parametrize(("family", "layout", "name"), CODERS)
def test_slots_and_index_are_as_untiled_leaves_them_after_every_chunk(family, layout, name):
    net = coder(family, layout, name)
    ours, plain = Stream(net, name), Stream(net, name)
    for chunk in chunks(net, name):
        got, expected = ours.send(chunk, tiled=True), plain.send(chunk, tiled=False)
        assert_same(got[0], expected[0])
        assert got[1] == expected[1]
        for slot, other in zip(ours.cache, plain.cache, strict=True):
            assert_same(slot, other)


@pytest.mark.parametrize("turns", ["TTTTT", "TUTUT", "UTTUT"])
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_pairs_and_deferred_frames_are_as_comfyui_has_them(name, turns):
    """The decoder gives lists of pairs; the encoder gives ``None`` while a frame waits."""
    net = coder("wan21", "wan", name, "comfyui")
    side = 4 if name == "decoder" else 32
    channels = net.conv1.in_channels
    generator = torch.Generator().manual_seed(3)
    slots = count_slots(net, deferring=name == "encoder")
    ours, plain = [None] * slots, [None] * slots
    answers = set()
    with torch.no_grad():
        for number, turn in enumerate(turns):
            shape = (1, channels, 2 if number else 1, side, side)
            chunk = torch.randn(shape, generator=generator)
            ends = {"final": number == len(turns) - 1} if name == "encoder" else {}
            index, other = [0], [0]
            expected = net(chunk, plain, other, **ends)
            if turn == "U":
                got = net(chunk, ours, index, **ends)
            else:
                with tiling(net, name) as hook:
                    got = net(chunk, ours, index, **ends)
                assert not hook.reasons
            assert_same(got, expected)
            assert index == other
            for slot, there in zip(ours, plain, strict=True):
                assert_same(slot, there)
            answers.add(len(got) if isinstance(got, list) else type(got))
    assert len(answers) > 1


@pytest.mark.parametrize("turns", ["TUT", "UTU", "UTT"])
@pytest.mark.parametrize(("family", "layout", "name"), CODERS)
def test_tiled_and_untiled_chunks_take_turns(family, layout, name, turns):
    net = coder(family, layout, name)
    ours, plain = Stream(net, name), Stream(net, name)
    for turn, chunk in zip(turns, chunks(net, name), strict=True):
        got = ours.send(chunk, tiled=turn == "T")[0]
        assert_same(got, plain.send(chunk, tiled=False)[0])


@pytest.mark.parametrize(("family", "layout", "name"), CODERS[:2])
def test_two_streams_through_one_hook_do_not_mix(family, layout, name):
    net = coder(family, layout, name)
    one, other = Stream(net, name), Stream(net, name)
    alone = [Stream(net, name), Stream(net, name)]
    for chunk in chunks(net, name, 3):
        for stream, single, given in ((one, alone[0], chunk), (other, alone[1], -2 * chunk)):
            got = stream.send(given, tiled=True)[0]
            assert_same(got, single.send(given, tiled=False)[0])


def test_a_cleared_list_begins_anew():
    net = coder("qwen", "wan", "decoder")
    first, second = chunks(net, "decoder", 2)
    stream = Stream(net, "decoder")
    begun = stream.send(first, tiled=True)[0]
    stream.send(second, tiled=True)
    stream.cache[:] = [None] * len(stream.cache)
    assert torch.equal(stream.send(first, tiled=True)[0], begun)


def test_an_index_that_does_not_start_at_zero_is_respected():
    net = coder("qwen", "wan", "decoder")
    slots = count_slots(net)
    chunk = chunks(net, "decoder", 1)[0]
    lists = [[None] * (slots + 3) for _ in range(2)]
    ends = []
    with torch.no_grad():
        for tiled, slots_of in zip((False, True), lists, strict=True):
            index = [3]
            if tiled:
                with tiling(net, "decoder"):
                    net(chunk, feat_cache=slots_of, feat_idx=index)
            else:
                net(chunk, feat_cache=slots_of, feat_idx=index)
            ends.append(index[0])
    assert ends[0] == ends[1]
    for got, plain in zip(lists[1], lists[0], strict=True):
        assert_same(got, plain)


def test_an_unknown_sentinel_is_left_to_the_original(caplog):
    net = coder("qwen", "wan", "decoder")
    cache_list: list[Any] = ["something else"] * count_slots(net)
    chunk = chunks(net, "decoder", 1)[0]
    with torch.no_grad(), pytest.raises((TypeError, AttributeError)), tiling(net, "decoder"):
        net(chunk, feat_cache=cache_list, feat_idx=[0])
    assert "cache slot holds 'something else'" in caplog.text


def test_a_call_that_fails_leaves_the_cache_as_it_was():
    net = coder("qwen", "wan", "decoder")
    stream = Stream(net, "decoder")
    first, second = chunks(net, "decoder", 2)
    stream.send(first, tiled=False)
    before, index = list(stream.cache), [0]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with torch.no_grad(), tiling(net, "decoder", progress=stop), pytest.raises(KeyboardInterrupt):
        net(second, stream.cache, index)
    assert index == [0]
    assert all(now is then for now, then in zip(stream.cache, before, strict=True))


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_parked_caches_travel_pinned_beside_the_computing_and_an_untiled_chunk_takes_them(name):
    net = build("wan21", "mock").get_submodule(name)
    with open_device("sim") as device, torch.no_grad():
        net.to(device.torch_device)
        ours, plain = Stream(net, name), Stream(net, name)
        sent = chunks(net, name, high=2)
        for chunk, tiled in zip(sent, (True, True, False), strict=True):
            both = device.put(torch.cat([chunk, -chunk]))
            with device.metered() as reading:
                got = ours.send(both, tiled)[0]
            assert_same(got.cpu(), plain.send(both, False)[0].cpu())
            for slot, other in zip(ours.cache, plain.cache, strict=True):
                assert_same(on_host(slot), on_host(other))
            if tiled:
                held = [slot for slot in ours.cache if isinstance(slot, Tensor)]
                parked = [slot for slot in held if slot.device.type == "cpu"]
                assert 2 * len(parked) > len(held) > 0
                assert reading.copies
                assert all(each.pinned and not each.strided for each in reading.copies)
                assert reading.waits.total == 1
                assert not reading.races


def on_host(slot: Any) -> Any:
    return slot.cpu() if isinstance(slot, Tensor) else slot
