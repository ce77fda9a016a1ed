"""Image VAEs of the latent-diffusion lineage: Stable Diffusion and Flux."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vae_compat.families.family import Family, Norm, Trained


def _family(
    name: str,
    title: str,
    source: str,
    *,
    deal: int,
    latent_channels: int,
    config: Mapping[str, Any],
    model_class: str = "AutoencoderKL",
    since: str = "0.30",
    trained: bool = False,
    real_by_default: bool = False,
) -> Family:
    """A family with GroupNorm, attention in the middle and 8 image pixels per latent pixel."""
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
    # The mock keeps 32 groups, because published hooks rely on that number. Groups have one channel
    # at the large levels and two at the small ones, so the number of channels changes in between.
    mock = {
        **real,
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 1,
        "sample_size": 128,
    }
    # A norm over two channels leaves a picture its brightness, which a norm over one takes away.
    widths = {**mock, "block_out_channels": (64, 32, 32, 64)}
    return Family(
        name=name,
        title=title,
        source=source,
        model_class=model_class,
        since=since,
        real=MappingProxyType(real),
        mock=MappingProxyType(mock),
        deal=deal,
        ratio=8,
        latent_channels=latent_channels,
        image_channels=3,
        coder_layout="ldm",
        blocks="latent-diffusion",
        norms=(Norm("group", axis="plane"),),
        receptive_field=18,
        trained=Trained("image.safetensors", MappingProxyType(widths)) if trained else None,
        real_by_default=real_by_default,
    )


FAMILIES = (
    _family(
        "sd",
        "Stable Diffusion 1.x",
        "huggingface: stable-diffusion-v1-5/stable-diffusion-v1-5 vae/config.json "
        "(force_upcast is not published there: the default of diffusers AutoencoderKL)",
        deal=0,
        latent_channels=4,
        trained=True,
        # SDXL, SD3 and Flux have the same coders, apart from the latent channels.
        real_by_default=True,
        config={
            "sample_size": 512,
            "scaling_factor": 0.18215,
            "force_upcast": True,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
        },
    ),
    _family(
        "sdxl",
        "Stable Diffusion XL",
        "huggingface: stabilityai/sdxl-vae config.json",
        deal=1,
        latent_channels=4,
        trained=True,
        config={
            "sample_size": 1024,
            "scaling_factor": 0.13025,
            "force_upcast": True,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
        },
    ),
    _family(
        "sd3",
        "Stable Diffusion 3",
        "huggingface: stabilityai/stable-diffusion-3-medium-diffusers vae/config.json",
        deal=2,
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
    _family(
        "flux",
        "FLUX.1",
        "huggingface: black-forest-labs/FLUX.1-dev vae/config.json",
        deal=3,
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
    _family(
        "flux2",
        "FLUX.2",
        "huggingface: black-forest-labs/FLUX.2-dev vae/config.json (its force_upcast is no "
        "parameter of the class; decoder_block_out_channels is published for "
        "FLUX.2-small-decoder alone)",
        deal=4,
        model_class="AutoencoderKLFlux2",
        since="0.36",
        latent_channels=32,
        real_by_default=True,  # its decoder has widths of its own
        config={
            "sample_size": 1024,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
            "batch_norm_eps": 1e-4,
            "batch_norm_momentum": 0.1,
            "patch_size": (2, 2),
        },
    ),
)
