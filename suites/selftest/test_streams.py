"""A clip sent chunk by chunk gives what the convention gives in one go."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from vae_compat.contracts.cases import Direction
from vae_compat.contracts.coders import coder_of
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes import build
from vae_compat.measure.caches import Holds
from vae_compat.scenarios.streams import Stream
from vae_compat.scenarios.tracks import joined, naming

VIEWS = [
    *product(("qwen", "wan21", "wan22"), ("diffusers",), ("original",)),
    *product(("wan21", "wan22"), ("wan",), ("original", "comfyui")),
]


def a_clip(family: str, direction: Direction) -> torch.Tensor:
    facts = FAMILIES[family]
    shape = (1, facts.latent_channels, 3, 2, 3)
    if direction is Direction.ENCODE:
        shape = (1, facts.image_channels, 9, 2 * facts.ratio, 3 * facts.ratio)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vaes():
    return {family: build(family, "mock") for family in ("qwen", "wan21", "wan22")}


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("family", "layout", "variant"), VIEWS)
def test_a_stream_is_the_convention_chunk_by_chunk(vaes, family, layout, variant, direction):
    seen = view(vaes[family], layout, FAMILIES[family], variant=variant)
    coder = coder_of(seen, direction)
    splits = set()
    with torch.no_grad():
        x = seen.coder_input(direction, a_clip(family, direction))
        for convention in seen.conventions(direction):
            if convention.chunked is None:
                assert convention.name.startswith("no cache")
                continue
            splits.add(convention.chunked.split)
            sent = Stream(coder, convention.chunked, x).run()
            assert torch.equal(joined(sent), convention.call(coder, x)), convention.name
            assert len(sent) > 1
            assert any(slot.holds is Holds.FRAMES for slot in sent[-1].slots)
    assert len(splits) == (2 if (variant, family, direction) == CUT_TWICE else 1)


CUT_TWICE = ("comfyui", "wan21", Direction.ENCODE)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("family", "layout", "variant"), VIEWS)
def test_slots_are_named_after_different_convolutions(vaes, family, layout, variant, direction):
    seen = view(vaes[family], layout, FAMILIES[family], variant=variant)
    coder = coder_of(seen, direction)
    with torch.no_grad():
        x = seen.coder_input(direction, a_clip(family, direction))
        stream = Stream(coder, seen.conventions(direction)[0].chunked, x)
        with naming(coder, "coder", stream.log) as names:
            stream.run()
    parts = dict(coder.named_modules(prefix="coder"))
    held = {n for n, slot in enumerate(stream.sent[-1].slots) if slot.holds is Holds.FRAMES}
    assert held <= set(names) == set(range(len(names)))
    waiting = [name for name in names.values() if list(names.values()).count(name) > 1]
    deferring = "final" in seen.conventions(direction)[0].name
    assert all(name.endswith("time_conv") for name in waiting)
    assert bool(waiting) is deferring
    assert all(type(parts[name]).__name__.endswith("CausalConv3d") for name in names.values())


def test_chunks_may_go_to_whatever_is_the_forward_at_the_time(vaes):
    seen = view(vaes["qwen"], "diffusers", FAMILIES["qwen"])
    chunked = seen.conventions(Direction.DECODE)[0].chunked
    called = []
    with torch.no_grad():
        x = a_clip("qwen", Direction.DECODE)
        stream = Stream(seen.decoder, chunked, x)
        stream.send()
        original = seen.decoder.forward
        seen.decoder.forward = lambda *args, **more: called.append(1) or original(*args, **more)
        stream.send()
        del seen.decoder.forward
        stream.send()
        assert torch.equal(joined(stream.sent), joined(Stream(seen.decoder, chunked, x).run()))
    assert called == [1]


def test_a_write_between_two_calls_belongs_to_no_chunk(vaes):
    seen = view(vaes["qwen"], "diffusers", FAMILIES["qwen"])
    chunked = seen.conventions(Direction.DECODE)[0].chunked
    with torch.no_grad():
        stream = Stream(seen.decoder, chunked, a_clip("qwen", Direction.DECODE))
        stream.send()
        stream.cache[4] = stream.cache[4]
        later = [access for access in stream.send().accesses if access.chunk is None]
    assert [(access.slot, access.writes) for access in later] == [(4, False), (4, True)]
