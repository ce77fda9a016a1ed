"""Video front end: programs of Qwen and Wan coders, with diffusers or original names."""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import nn

from ..nets.modules import children, expect, expect_kind, inner, kind
from ..nets.provenance import is_known_function
from ..program.steps import Program, Value
from .builder import Builder, attention_qkv


def diffusers_program(net: nn.Module, is_decoder: bool, first_chunk: bool) -> Program:
    """A coder of diffusers' ``AutoencoderKLQwenImage`` and ``AutoencoderKLWan``."""
    build = Builder(net)
    expect_kind(net, "Decoder3d" if is_decoder else "Encoder3d")
    x = build.causal(0, inner(net, "conv_in"))
    if is_decoder:
        x = middle(build, x, inner(net, "mid_block"))
    for block in children(net, "up_blocks" if is_decoder else "down_blocks"):
        x = part(build, x, block, first_chunk)
    if not is_decoder:
        x = middle(build, x, inner(net, "mid_block"))
    x = build.norm(x, inner(net, "norm_out"), inner(net, "nonlinearity"))
    build.causal(x, inner(net, "conv_out"))
    return build.finish(patch=folded(net, "conv_in", "conv_out", is_decoder))


def original_program(net: nn.Module, is_decoder: bool, first_chunk: bool) -> Program:
    """A coder of Wan's own code, or of ComfyUI's: ``conv1``, ``middle``, ``head``."""
    build = Builder(net)
    expect_kind(net, "Decoder3d" if is_decoder else "Encoder3d")
    deferring = "final" in inspect.signature(type(net).forward).parameters
    pairs = hasattr(net, "run_up") or hasattr(net, "rise")
    build.deferring = deferring
    x = build.causal(0, inner(net, "conv1"))
    stacks = ["downsamples", "middle"]
    for name in reversed(stacks) if is_decoder else stacks:
        name = "upsamples" if is_decoder and name == "downsamples" else name
        build.enter(inner(net, name))
        for block in children(net, name):
            x = part(build, x, block, first_chunk)
    head = inner(net, "head")
    build.enter(head)
    norm, act, conv = head.children()
    build.causal(build.norm(x, norm, act), conv)
    return build.finish(
        joins=not (deferring or pairs),
        pairs=pairs,
        defers=deferring,
        patch=folded(net, "conv1", "conv1", is_decoder, head=conv),
    )


def folded(
    net: nn.Module, first: str, last: str, is_decoder: bool, head: nn.Module | None = None
) -> int:
    """Side of the squares of image pixels that were folded into channels: 2 for Wan 2.2."""
    conv = cast(Any, (head or inner(net, last)) if is_decoder else inner(net, first))
    channels = conv.out_channels if is_decoder else conv.in_channels
    return {12: 2, 48: 4}.get(channels, 1)


def middle(build: Builder, x: Value, block: nn.Module) -> Value:
    """A residual block, then attention and a residual block as often as there are."""
    expect_kind(block, "MidBlock")
    return build.middle(x, block, residual, attend)


def part(build: Builder, x: Value, block: nn.Module, first_chunk: bool) -> Value:
    """Any block that stands between the two ends of a coder."""
    name = kind(block)
    if name == "ResidualBlock":
        return residual(build, x, block)
    if name == "AttentionBlock":
        return attend(build, x, block)
    if name == "Resample":
        return build.resample(x, block)
    levels = ("UpBlock", "ResidualUpBlock", "ResidualDownBlock")
    originals = ("Up_ResidualBlock", "Down_ResidualBlock")
    expect_kind(block, *levels, *originals)
    return level(build, x, block, first_chunk)


def level(build: Builder, x: Value, block: nn.Module, first_chunk: bool) -> Value:
    """Blocks of one resolution, in Wan 2.2 beside a shortcut without weights."""
    build.enter(block)
    parts = children(block, "resnets") or children(block, "upsamples")
    parts = parts or children(block, "downsamples")
    if children(block, "resnets"):
        parts = parts + children(block, "upsamplers")
        ends = (getattr(block, name, None) for name in ("upsampler", "downsampler"))
        parts = parts + [end for end in ends if end is not None]
    h = x
    for each in parts:
        h = part(build, h, each, first_chunk)
    shortcut = getattr(block, "avg_shortcut", None)
    if shortcut is None:
        return h
    return build.add(h, build.reshuffle(x, shortcut, first_chunk))


def residual(build: Builder, x: Value, block: nn.Module) -> Value:
    """Two normalised causal convolutions beside a shortcut."""
    expect_kind(block, "ResidualBlock")
    build.enter(block)
    if hasattr(block, "residual"):
        build.enter(inner(block, "residual"))
        norm1, act1, conv1, norm2, act2, dropout, conv2 = children(block, "residual")
        shortcut = inner(block, "shortcut")
    else:
        names = ("norm1", "nonlinearity", "conv1", "norm2", "nonlinearity", "dropout", "conv2")
        norm1, act1, conv1, norm2, act2, dropout, conv2 = (inner(block, name) for name in names)
        shortcut = inner(block, "conv_shortcut")
    build.drop(dropout)
    h = build.causal(build.norm(x, norm1, act1), conv1)
    h = build.causal(build.norm(h, norm2, act2), conv2)
    if not isinstance(shortcut, nn.Identity):
        x = build.causal(x, shortcut, cached=False)
    return build.add(h, x)


def attend(build: Builder, x: Value, block: nn.Module) -> Value:
    """Attention with one head over the plane of each frame."""
    expect_kind(block, "AttentionBlock")
    function = getattr(block, "optimized_attention", None)
    known = function is None or is_known_function(function)
    expect(known, f"attends by {function}, which this hook does not know", block)
    step = attention_qkv(block, x, build.fresh)
    build.seen.update(inner(block, name) for name in ("to_qkv", "proj", "norm"))
    return build.attend(x, block, step)
