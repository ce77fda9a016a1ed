"""Walking through coders of still images: latent-diffusion names and diffusers names."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .builder import Builder
from .fingerprints import is_attention, role
from .layers import pixelwise
from .modules import (
    children,
    expect,
    expect_kind,
    inner,
    kind,
    plane_windows,
    tampered,
)
from .offloading import is_lent_whole
from .steps import Attend, Program, Value

SILU = nn.SiLU()
"""Stands for the activation that latent-diffusion has as a function."""


def ldm_program(net: nn.Module, is_decoder: bool) -> Program:
    """A coder with ``mid.block_1``, ``up[i].block[j]``, ``down[i].block[j]``."""
    build = Builder(net)
    expect_kind(net, "Decoder" if is_decoder else "Encoder")
    x = build.conv(0, inner(net, "conv_in"))
    if is_decoder:
        expect(not getattr(net, "give_pre_end", False), "stops before its end", net)
        expect(not getattr(net, "tanh_out", False), "ends in a tanh", net)
        x = ldm_middle(build, x, inner(net, "mid"))
    levels = children(net, "up" if is_decoder else "down")
    for level in reversed(levels) if is_decoder else levels:
        x = ldm_level(build, x, level)
    if not is_decoder:
        x = ldm_middle(build, x, inner(net, "mid"))
    build.conv(build.norm(x, inner(net, "norm_out"), SILU), inner(net, "conv_out"))
    return build.finish()


def ldm_middle(build: Builder, x: Value, middle: nn.Module) -> Value:
    """Two residual blocks around an attention."""
    build.enter(middle)
    x = ldm_resnet(build, x, inner(middle, "block_1"))
    x = ldm_attention(build, x, inner(middle, "attn_1"))
    return ldm_resnet(build, x, inner(middle, "block_2"))


def ldm_level(build: Builder, x: Value, level: nn.Module) -> Value:
    """All blocks of one resolution, and the way to the next."""
    build.enter(level)
    attentions = children(level, "attn")
    blocks = children(level, "block")
    expect(len(attentions) in (0, len(blocks)), "has attention after some blocks only", level)
    for number, block in enumerate(blocks):
        x = ldm_resnet(build, x, block)
        if attentions:
            x = ldm_attention(build, x, attentions[number])
    resampler = getattr(level, "upsample", None) or getattr(level, "downsample", None)
    if resampler is None or isinstance(resampler, nn.Identity):
        return x
    build.enter(resampler)
    expect_kind(resampler, "Upsample", "Downsample")
    expect(bool(getattr(resampler, "with_conv", True)), "has no convolution", resampler)
    if kind(resampler) == "Upsample":
        return build.conv(x, inner(resampler, "conv"), up=2)
    return build.conv(x, inner(resampler, "conv"), pad=(0, 1))


def ldm_resnet(build: Builder, x: Value, block: nn.Module) -> Value:
    """Two normalised convolutions beside a shortcut."""
    expect_kind(block, "ResnetBlock")
    build.enter(block)
    for swish in (getattr(block, "swish", None), getattr(block, "nonlinearity", None)):
        expect(swish is None or isinstance(swish, nn.SiLU), "is activated differently", block)
    expect(getattr(block, "temb_proj", None) is None, "wants a time embedding", block)
    h = build.conv(build.norm(x, inner(block, "norm1"), SILU), inner(block, "conv1"))
    h = build.norm(h, inner(block, "norm2"), SILU)
    if getattr(block, "dropout", None) is not None:
        build.drop(inner(block, "dropout"))
    h = build.conv(h, inner(block, "conv2"))
    names = ("nin_shortcut", "conv_shortcut")
    shortcuts = [part for part in (getattr(block, name, None) for name in names) if part]
    return build.add(h, build.conv(x, shortcuts[0]) if shortcuts else x)


def ldm_attention(build: Builder, x: Value, block: nn.Module) -> Value:
    """Attention with one head, its projections 1x1 convolutions."""
    if isinstance(block, nn.Identity):
        return x
    query, key, value = (inner(block, name) for name in "qkv")
    proj, norm = inner(block, "proj_out"), inner(block, "norm")
    function = getattr(block, "optimized_attention", None)
    plain = kind(block) == "AttnBlock" and not tampered(block)
    plain = plain and (function is None or is_attention(function))
    plain = plain and isinstance(norm, nn.GroupNorm)
    if not plain or not all(is_pointwise(each) for each in (query, key, value, proj)):
        return build.whole(x, block, block)
    build.seen.update((query, key, value, proj, norm))

    def project(band: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pixelwise(query, band), pixelwise(key, band), pixelwise(value, band)

    def finish(band: Tensor) -> Tensor:
        return pixelwise(proj, band)

    return build.attend(x, block, Attend((x,), build.fresh, norm, True, project, finish, 1))


def is_pointwise(module: nn.Module) -> bool:
    """Whether a projection is a 1x1 convolution."""
    return isinstance(module, nn.Conv2d) and all(each.local for each in plane_windows(module))


def diffusers_program(net: nn.Module, is_decoder: bool) -> Program:
    """A coder of diffusers' ``AutoencoderKL`` and its like."""
    build = Builder(net)
    expect_kind(net, "Decoder" if is_decoder else "Encoder")
    x = build.conv(0, inner(net, "conv_in"))
    if is_decoder:
        x = diffusers_middle(build, x, inner(net, "mid_block"))
    for level in children(net, "up_blocks" if is_decoder else "down_blocks"):
        x = diffusers_level(build, x, level)
    if not is_decoder:
        x = diffusers_middle(build, x, inner(net, "mid_block"))
    x = build.norm(x, inner(net, "conv_norm_out"), inner(net, "conv_act"))
    build.conv(x, inner(net, "conv_out"))
    return build.finish()


def diffusers_middle(build: Builder, x: Value, middle: nn.Module) -> Value:
    """A residual block, then attention and a residual block as often as there are."""
    expect_kind(middle, "UNetMidBlock2D")
    build.enter(middle)
    first, *others = children(middle, "resnets")
    x = diffusers_resnet(build, x, first)
    for attention, resnet in zip(cast(Any, middle).attentions, others, strict=True):
        if attention is not None:
            x = diffusers_attention(build, x, attention)
        x = diffusers_resnet(build, x, resnet)
    return x


def diffusers_level(build: Builder, x: Value, level: nn.Module) -> Value:
    """All blocks of one resolution, and the way to the next."""
    expect_kind(level, "UpDecoderBlock2D", "DownEncoderBlock2D")
    build.enter(level)
    for resnet in children(level, "resnets"):
        x = diffusers_resnet(build, x, resnet)
    for resampler in children(level, "upsamplers") + children(level, "downsamplers"):
        build.enter(resampler)
        options = cast(Any, resampler)
        expect(options.use_conv and options.norm is None, "resamples differently", resampler)
        expect_kind(resampler, "Upsample2D", "Downsample2D")
        if kind(resampler) == "Upsample2D":
            expect(options.interpolate and not options.use_conv_transpose, "differs", resampler)
            x = build.conv(x, inner(resampler, options.name), up=2)
        else:
            x = build.conv(x, inner(resampler, "conv"), pad=None if options.padding else (0, 1))
    return x


def diffusers_resnet(build: Builder, x: Value, block: nn.Module) -> Value:
    """Two normalised convolutions beside a shortcut, divided by ``output_scale_factor``."""
    expect_kind(block, "ResnetBlock2D")
    build.enter(block)
    options = cast(Any, block)
    expect(options.time_embedding_norm in ("default", "group"), "wants a time embedding", block)
    expect(options.time_emb_proj is None, "wants a time embedding", block)
    expect(options.upsample is None and options.downsample is None, "resamples", block)
    act = inner(block, "nonlinearity")
    h = build.conv(build.norm(x, inner(block, "norm1"), act), inner(block, "conv1"))
    h = build.norm(h, inner(block, "norm2"), act)
    build.drop(inner(block, "dropout"))
    h = build.conv(h, inner(block, "conv2"))
    if options.conv_shortcut is not None:
        x = build.conv(x, inner(block, "conv_shortcut"))
    return build.add(h, x, float(options.output_scale_factor))


def diffusers_attention(build: Builder, x: Value, block: nn.Module) -> Value:
    """diffusers' ``Attention``: by bands where it is the plain one, else called as a whole."""
    options = cast(Any, block)
    if not is_plain_attention(block):
        return build.whole(x, block, lambda plane: cast(Tensor, block(plane, temb=None)))
    query, key, value = (inner(block, name) for name in ("to_q", "to_k", "to_v"))
    proj, dropout = options.to_out
    norm = options.group_norm
    build.drop(dropout)
    build.seen.update(part for part in (query, key, value, proj, norm) if part is not None)

    def mapped(layer: nn.Module, tokens: Tensor, band: Tensor) -> Tensor:
        each = pixelwise(layer, tokens, tokens=True)
        return torch.unflatten(each.transpose(1, 2), 2, band.shape[2:])

    def project(band: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = band.flatten(2).transpose(1, 2)
        return mapped(query, tokens, band), mapped(key, tokens, band), mapped(value, tokens, band)

    def finish(band: Tensor) -> Tensor:
        return mapped(proj, band.flatten(2).transpose(1, 2), band)

    step = Attend(
        (x,),
        build.fresh,
        norm,
        norm is not None,
        project,
        finish,
        int(options.heads),
        float(options.rescale_output_factor),
    )
    return build.attend(x, block, step)


def is_plain_attention(block: nn.Module) -> bool:
    """Whether an attention of diffusers computes what its parts say, by code that is known."""
    options = cast(Any, block)
    if kind(block) != "Attention" or (tampered(block) and not is_lent_whole(block)):
        return False
    processor = options.processor
    if role(type(processor)) not in ("AttnProcessor", "AttnProcessor2_0"):
        return False
    parts = [options.to_q, options.to_k, options.to_v, *options.to_out[:1]]
    norm = options.group_norm
    return (
        all(isinstance(part, nn.Linear) for part in parts)
        and (norm is None or isinstance(norm, nn.GroupNorm))
        and bool(options.residual_connection)
        and not any(
            getattr(options, name, None) is not None
            for name in ("spatial_norm", "norm_q", "norm_k", "norm_cross")
        )
    )
