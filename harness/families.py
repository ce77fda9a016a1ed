"""Published facts of each family, as data, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Family:
    """A published VAE architecture."""

    name: str
    title: str
    model_class: str
    """Name of the class in diffusers."""
    real: Mapping[str, Any]
    """The published configuration."""
    mock: Mapping[str, Any]
    """The same class with few channels; every mechanism of the real one kept."""
    ratio: int
    """Image pixels per latent pixel, along one side."""
    temporal_ratio: int
    """Image frames per latent frame after the first; 1 where there is no frame axis."""
    latent_channels: int
    image_channels: int
    norm: str
    """``group``: statistics over the plane; ``rms``: over channels alone."""
    causal: bool
    """Whether coders keep causal feature caches (and tensors have a frame axis)."""
    coder_layout: str
    """The layout of the original implementation: ``ldm`` or ``wan``."""
    source: str

    @property
    def build(self) -> tuple[str, bool, int]:
        """Families of one build have the same mechanisms: norm, caches, ratio."""
        return self.norm, self.causal, self.ratio


def _image_family(
    name: str,
    title: str,
    source: str,
    *,
    latent_channels: int,
    config: Mapping[str, Any],
    model_class: str = "AutoencoderKL",
) -> Family:
    """A latent-diffusion VAE: GroupNorm, attention in the middle, eight image pixels a latent."""
    real = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "act_fn": "silu",
        "latent_channels": latent_channels,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        **config,
    }
    # 32 groups stay, because published hooks count on 32: one channel a group at the large
    # levels, two at the small ones, and a change of channels between them.
    mock = {
        **real,
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 1,
        "sample_size": 128,
    }
    return Family(
        name=name,
        title=title,
        model_class=model_class,
        real=MappingProxyType(real),
        mock=MappingProxyType(mock),
        ratio=8,
        temporal_ratio=1,
        latent_channels=latent_channels,
        image_channels=3,
        norm="group",
        causal=False,
        coder_layout="ldm",
        source=source,
    )


def _video_family(
    name: str,
    title: str,
    source: str,
    *,
    model_class: str,
    latent_channels: int,
    ratio: int,
    config: Mapping[str, Any],
    mock_config: Mapping[str, Any],
) -> Family:
    """A Wan VAE: RMS norm over channels, causal convolutions in time, feature caches."""
    real = {
        "z_dim": latent_channels,
        "dim_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "attn_scales": (),
        "temperal_downsample": (False, True, True),
        "dropout": 0.0,
        **config,
    }
    # Very few channels: torch has only a slow 3D convolution for batch 1 on the CPU.
    mock = {**real, "num_res_blocks": 1, **mock_config}
    return Family(
        name=name,
        title=title,
        model_class=model_class,
        real=MappingProxyType(real),
        mock=MappingProxyType(mock),
        ratio=ratio,
        temporal_ratio=4,
        latent_channels=latent_channels,
        image_channels=3,
        norm="rms",
        causal=True,
        coder_layout="wan",
        source=source,
    )


# fmt: off
_WAN21_LATENTS: Mapping[str, Any] = MappingProxyType({
    "latents_mean": (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    "latents_std": (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
})

_WAN22_LATENTS: Mapping[str, Any] = MappingProxyType({
    "latents_mean": (
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
        -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
        -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
        -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
        -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
        0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ),
    "latents_std": (
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
        0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
        0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
        0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
        0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ),
})
# fmt: on

_FAMILIES = (
    _image_family(
        "sd",
        "Stable Diffusion 1.x",
        "huggingface: stable-diffusion-v1-5/stable-diffusion-v1-5 vae/config.json "
        "(force_upcast is not published there: the default of diffusers AutoencoderKL)",
        latent_channels=4,
        config={
            "sample_size": 512,
            "scaling_factor": 0.18215,
            "force_upcast": True,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
        },
    ),
    _image_family(
        "sdxl",
        "Stable Diffusion XL",
        "huggingface: stabilityai/sdxl-vae config.json",
        latent_channels=4,
        config={
            "sample_size": 1024,
            "scaling_factor": 0.13025,
            "force_upcast": True,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
        },
    ),
    _image_family(
        "sd3",
        "Stable Diffusion 3",
        "huggingface: stabilityai/stable-diffusion-3-medium-diffusers vae/config.json",
        latent_channels=16,
        config={
            "sample_size": 1024,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "force_upcast": True,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    ),
    _image_family(
        "flux",
        "FLUX.1",
        "huggingface: black-forest-labs/FLUX.1-dev vae/config.json",
        latent_channels=16,
        config={
            "sample_size": 1024,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "force_upcast": True,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    ),
    _image_family(
        "flux2",
        "FLUX.2",
        "huggingface: black-forest-labs/FLUX.2-dev vae/config.json (its force_upcast is no "
        "parameter of the class; decoder_block_out_channels is published for "
        "FLUX.2-small-decoder alone)",
        model_class="AutoencoderKLFlux2",
        latent_channels=32,
        config={
            "sample_size": 1024,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
            "batch_norm_eps": 1e-4,
            "batch_norm_momentum": 0.1,
            "patch_size": (2, 2),
        },
    ),
    _video_family(
        "qwen",
        "Qwen-Image",
        "huggingface: Qwen/Qwen-Image vae/config.json",
        model_class="AutoencoderKLQwenImage",
        latent_channels=16,
        ratio=8,
        config={"base_dim": 96, **_WAN21_LATENTS},
        mock_config={"base_dim": 4},
    ),
    _video_family(
        "wan21",
        "Wan 2.1 (and Wan 2.2 A14B)",
        "huggingface: Wan-AI/Wan2.1-T2V-1.3B-Diffusers vae/config.json",
        model_class="AutoencoderKLWan",
        latent_channels=16,
        ratio=8,
        config={"base_dim": 96, **_WAN21_LATENTS},
        mock_config={"base_dim": 4},
    ),
    _video_family(
        "wan22",
        "Wan 2.2 TI2V-5B",
        "huggingface: Wan-AI/Wan2.2-TI2V-5B-Diffusers vae/config.json (its clip_output is no "
        "parameter of the class)",
        model_class="AutoencoderKLWan",
        latent_channels=48,
        ratio=16,
        config={
            "base_dim": 160,
            "decoder_base_dim": 256,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "scale_factor_temporal": 4,
            **_WAN22_LATENTS,
        },
        mock_config={"base_dim": 6, "decoder_base_dim": 4},
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _FAMILIES})
"""The families by name, in the order in which they are listed and reported."""
