"""Image front end: programs of still-image coders, with latent-diffusion or diffusers names."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .builder import Builder
from .errors import UnknownCoderError
from .modules import children, expect, inner, kind, plane_windows
from .steps import Attend, Program, Value

SILU = nn.SiLU()
"""Module form of the activation that latent-diffusion calls as a function."""


def ldm_program(net: nn.Module, is_decoder: bool) -> Program:
    """A coder with ``mid.block_1``, ``up[i].block[j]``, ``down[i].block[j]``."""
    build = Builder(net)
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
    expect(kind(resampler) in ("Upsample", "Downsample"), "is no resampling known here", resampler)
    if kind(resampler) == "Upsample":
        return build.conv(x, inner(resampler, "conv"), up=2)
    return build.conv(x, inner(resampler, "conv"), pad=(0, 1))


def ldm_resnet(build: Builder, x: Value, block: nn.Module) -> Value:
    """Two normalised convolutions beside a shortcut."""
    expect(kind(block) == "ResnetBlock", "is no residual block known here", block)
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
    names = ("AttnBlock", "MemoryEfficientAttnBlock", "MemoryEfficientAttnBlockPytorch")
    expect(kind(block) in names, "is no attention known here", block)
    query, key, value = (inner(block, name) for name in "qkv")
    proj, norm = inner(block, "proj_out"), inner(block, "norm")
    for module in (query, key, value, proj):
        rows, cols = plane_windows(module)
        expect(rows.local and cols.local, "looks at neighbours", module)
    expect(isinstance(norm, nn.GroupNorm), "is no norm known here", norm)
    build.seen.update((query, key, value, proj, norm))

    def project(band: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query(band), key(band), value(band)

    return build.attend(x, block, Attend((x,), build.fresh, norm, True, project, proj, 1))


def diffusers_program(net: nn.Module, is_decoder: bool) -> Program:
    """A coder of diffusers' ``AutoencoderKL`` and its like."""
    build = Builder(net)
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
    expect(kind(middle) == "UNetMidBlock2D", "is no middle known here", middle)
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
    known = ("UpDecoderBlock2D", "DownEncoderBlock2D")
    expect(kind(level) in known, "is no level known here", level)
    build.enter(level)
    for resnet in children(level, "resnets"):
        x = diffusers_resnet(build, x, resnet)
    for resampler in children(level, "upsamplers") + children(level, "downsamplers"):
        build.enter(resampler)
        options = cast(Any, resampler)
        expect(options.use_conv and options.norm is None, "resamples differently", resampler)
        if kind(resampler) == "Upsample2D":
            expect(options.interpolate and not options.use_conv_transpose, "differs", resampler)
            x = build.conv(x, inner(resampler, options.name), up=2)
        else:
            expect(kind(resampler) == "Downsample2D", "is no resampling known here", resampler)
            x = build.conv(x, inner(resampler, "conv"), pad=None if options.padding else (0, 1))
    return x


def diffusers_resnet(build: Builder, x: Value, block: nn.Module) -> Value:
    """Two normalised convolutions beside a shortcut, divided by ``output_scale_factor``."""
    expect(kind(block) == "ResnetBlock2D", "is no residual block known here", block)
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
    """diffusers' ``Attention`` with any processor that computes plain self-attention."""
    options = cast(Any, block)
    expect(kind(block) == "Attention", "is no attention known here", block)
    known = ("AttnProcessor2_0", "AttnProcessor", "XFormersAttnProcessor", "SlicedAttnProcessor")
    expect(type(options.processor).__name__ in known, f"has {options.processor}", block)
    for name in ("spatial_norm", "norm_q", "norm_k"):
        expect(getattr(options, name, None) is None, f"has {name}", block)
    expect(bool(options.residual_connection), "has no shortcut", block)
    query, key, value = (inner(block, name) for name in ("to_q", "to_k", "to_v"))
    proj, dropout = options.to_out
    norm = options.group_norm
    expect(norm is None or isinstance(norm, nn.GroupNorm), "is no norm known here", block)
    for module in (query, key, value, proj):
        if not isinstance(module, nn.Linear):
            raise UnknownCoderError(f"{type(module).__name__} stands where a linear layer should")
    build.drop(dropout)
    build.seen.update(part for part in (query, key, value, proj, norm) if part is not None)

    def pixelwise(layer: nn.Module, tokens: Tensor, band: Tensor) -> Tensor:
        mapped: Tensor = layer(tokens)
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
