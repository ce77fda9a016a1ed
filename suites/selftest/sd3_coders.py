"""Coders built as the web UI's SD3 has them (``modules/models/sd3/sd3_impls.py``).

Written from the names and shapes of its state dict, small: no widths as published, all parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64)
"""Channels of each level, finest first."""


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv(inward: int, outward: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, kernel, padding=kernel // 2)


class ResnetBlock(nn.Module):
    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inward), conv(inward, outward)
        self.norm2, self.conv2 = group_norm(outward), conv(outward, outward)
        self.nin_shortcut = None if inward == outward else conv(inward, outward, 1)
        self.swish = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.swish(self.norm1(x)))
        h = self.conv2(self.swish(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v = (conv(channels, channels, 1) for _ in range(3))
        self.proj_out = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        tokens = [part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v)]
        mixed = F.scaled_dot_product_attention(*tokens)[:, 0].transpose(1, 2)
        return x + self.proj_out(mixed.reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels: int) -> nn.Module:
    mid = nn.Module()
    mid.block_1, mid.attn_1 = ResnetBlock(channels, channels), AttnBlock(channels)
    mid.block_2 = ResnetBlock(channels, channels)
    return mid


def through(mid: nn.Module, x: Tensor) -> Tensor:
    return mid.block_2(mid.attn_1(mid.block_1(x)))


class VAEEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = conv(3, WIDTHS[0])
        self.down = nn.ModuleList()
        width = WIDTHS[0]
        for number, wanted in enumerate(WIDTHS):
            level = nn.Module()
            level.block = nn.ModuleList([ResnetBlock(width, wanted)])
            if number + 1 < len(WIDTHS):
                level.downsample = Downsample(wanted)
            self.down.append(level)
            width = wanted
        self.mid = middle(width)
        self.norm_out, self.conv_out = group_norm(width), conv(width, 32)
        self.swish = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(self.swish(self.norm_out(through(self.mid, h))))


class VAEDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[-1]
        self.conv_in, self.mid = conv(16, width), middle(width)
        self.up = nn.ModuleList()
        for number in reversed(range(len(WIDTHS))):
            level = nn.Module()
            level.block = nn.ModuleList([ResnetBlock(width, WIDTHS[number])])
            width = WIDTHS[number]
            if number:
                level.upsample = Upsample(width)
            self.up.insert(0, level)
        self.norm_out, self.conv_out = group_norm(width), conv(width, 3)
        self.swish = nn.SiLU(inplace=True)

    def forward(self, z: Tensor) -> Tensor:
        h = through(self.mid, self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(self.swish(self.norm_out(h)))


def seeded(coder: type[nn.Module]) -> nn.Module:
    """A coder with weights that are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return coder().eval().requires_grad_(False)
