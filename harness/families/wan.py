"""Video VAEs of the Wan lineage: Qwen-Image and Wan."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vae_compat.families.family import Blocks, Chunking, Family, Norm, Trained


def _family(
    name: str,
    title: str,
    source: str,
    *,
    deal: int,
    model_class: str,
    since: str,
    latent_channels: int,
    config: Mapping[str, Any],
    mock_config: Mapping[str, Any],
    blocks: Blocks = "wan",
    patch: int = 1,
    trained: bool = False,
    real_by_default: bool = False,
) -> Family:
    """A family with RMS norm over channels and causal convolutions that have a feature cache."""
    real = {
        "z_dim": latent_channels,
        "dim_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "attn_scales": (),
        "temperal_downsample": (False, True, True),
        "dropout": 0.0,
        **config,
    }
    # The mock has very few channels, because on the CPU torch's 3D convolution is slow for batch 1.
    mock = {**real, "num_res_blocks": 1, **mock_config}
    widths = {**mock, "base_dim": 8}
    return Family(
        name=name,
        title=title,
        source=source,
        model_class=model_class,
        since=since,
        real=MappingProxyType(real),
        mock=MappingProxyType(mock),
        deal=deal,
        ratio=8 * patch,
        latent_channels=latent_channels,
        image_channels=3,
        coder_layout="wan",
        blocks=blocks,
        norms=(Norm("rms", axis="channels"),),
        receptive_field=18,
        frame_axis=True,
        temporal_ratio=4,
        feature_cache=True,
        chunking=Chunking(encode=4, decode=1),
        patch=patch,
        clamped=True,  # _decode of AutoencoderKLQwenImage and AutoencoderKLWan, diffusers
        trained=Trained("video.safetensors", MappingProxyType(widths)) if trained else None,
        real_by_default=real_by_default,
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

FAMILIES = (
    _family(
        "qwen",
        "Qwen-Image",
        "huggingface: Qwen/Qwen-Image vae/config.json",
        deal=5,
        model_class="AutoencoderKLQwenImage",
        since="0.35",
        latent_channels=16,
        config={"base_dim": 96, **_WAN21_LATENTS},
        mock_config={"base_dim": 4},
        trained=True,
        real_by_default=True,  # Wan 2.1 has the same net
    ),
    _family(
        "wan21",
        "Wan 2.1 (and Wan 2.2 A14B)",
        "huggingface: Wan-AI/Wan2.1-T2V-1.3B-Diffusers vae/config.json",
        deal=6,
        model_class="AutoencoderKLWan",
        since="0.33",
        latent_channels=16,
        config={"base_dim": 96, **_WAN21_LATENTS},
        mock_config={"base_dim": 4},
        trained=True,
    ),
    _family(
        "wan22",
        "Wan 2.2 TI2V-5B",
        "huggingface: Wan-AI/Wan2.2-TI2V-5B-Diffusers vae/config.json (its clip_output is no "
        "parameter of the class)",
        deal=7,
        model_class="AutoencoderKLWan",
        since="0.35",
        latent_channels=48,
        blocks="wan-residual",
        patch=2,
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
        # It has 700 million parameters, so only the whole matrix runs it at real scale.
    ),
)
