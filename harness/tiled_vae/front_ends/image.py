"""Image front end: programs of still-image coders, with latent-diffusion or diffusers names."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..nets.layers import pointwise
from ..nets.modules import children, expect, expect_kind, inner, kind, plane_windows, tampered
from ..nets.offloading import is_offloaded_whole
from ..nets.provenance import is_known_function, role
from ..program.steps import Attend, Program, Value
from .builder import Builder

SILU = nn.SiLU()
"""Module form of the activation that latent-diffusion calls as a function."""


def ldm_program(net: nn.Module, is_decoder: bool) -> Program:
    """A coder with ``mid.block_1``, ``up[i].block[j]``, ``down[i].block[j]``."""
    build = Builder(net)
    expect_kind(net, *(("Decoder", "VAEDecoder") if is_decoder else ("Encoder", "VAEEncoder")))
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
    if not is_plain_ldm_attention(block):
        return build.attend_whole(x, block, block)
    query, key, value = (inner(block, name) for name in "qkv")
    proj, norm = inner(block, "proj_out"), inner(block, "norm")
    for part in (query, key, value, proj, norm):
        build.see(part)

    def project(band: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pointwise(query, band), pointwise(key, band), pointwise(value, band)

    def finish(band: Tensor) -> Tensor:
        return pointwise(proj, band)

    return build.attend(x, block, Attend((x,), build.fresh, norm, True, project, finish, 1))


def is_plain_ldm_attention(block: nn.Module) -> bool:
    """Whether an attention computes what its parts say, by code that is known."""
    names = ("AttnBlock", "MemoryEfficientAttnBlock", "MemoryEfficientAttnBlockPytorch")
    function = getattr(block, "optimized_attention", None)
    if kind(block) not in names or tampered(block):
        return False
    if function is not None and not is_known_function(function):
        return False
    parts = [getattr(block, name, None) for name in ("q", "k", "v", "proj_out")]
    return isinstance(getattr(block, "norm", None), nn.GroupNorm) and all(
        isinstance(part, nn.Conv2d) and all(window.local for window in plane_windows(part))
        for part in parts
    )


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
    return build.middle(x, middle, diffusers_resnet, diffusers_attention)


def diffusers_level(build: Builder, x: Value, level: nn.Module) -> Value:
    """All blocks of one resolution, and the way to the next."""
    expect_kind(level, "UpDecoderBlock2D", "DownEncoderBlock2D")
    build.enter(level)
    for resnet in children(level, "resnets"):
        x = diffusers_resnet(build, x, resnet)
    for resampler in children(level, "upsamplers") + children(level, "downsamplers"):
        build.enter(resampler)
        expect_kind(resampler, "Upsample2D", "Downsample2D")
        options = cast(Any, resampler)
        expect(options.use_conv and options.norm is None, "resamples differently", resampler)
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
    """diffusers' ``Attention``: in bands where it is plain self-attention, else called whole."""
    options = cast(Any, block)
    if not is_plain_attention(block):
        return build.attend_whole(x, block, lambda plane: cast(Tensor, block(plane, temb=None)))
    query, key, value = (inner(block, name) for name in ("to_q", "to_k", "to_v"))
    proj, dropout = options.to_out
    norm = options.group_norm
    build.drop(dropout)
    for part in (query, key, value, proj, norm):
        if part is not None:
            build.see(part)

    def pixelwise(layer: nn.Module, tokens: Tensor, band: Tensor) -> Tensor:
        mapped = pointwise(layer, tokens, tokens=True)
        return torch.unflatten(mapped.transpose(1, 2), 2, band.shape[2:])

    def project(band: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = band.flatten(2).transpose(1, 2)
        return (
            pixelwise(query, tokens, band),
            pixelwise(key, tokens, band),
            pixelwise(value, tokens, band),
        )

    def finish(band: Tensor) -> Tensor:
        return pixelwise(proj, band.flatten(2).transpose(1, 2), band)

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
    if kind(block) != "Attention" or (tampered(block) and not is_offloaded_whole(block)):
        return False
    known = ("AttnProcessor2_0", "AttnProcessor", "XFormersAttnProcessor", "SlicedAttnProcessor")
    if role(type(options.processor)) not in known:
        return False
    parts = (options.to_q, options.to_k, options.to_v, options.to_out[0])
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
