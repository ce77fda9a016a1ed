"""Stand-ins for the modules of AUTOMATIC1111's web UI that extensions for tiled VAEs import.

They answer what such an extension asks for, with the web UI's names and calling conventions
(AUTOMATIC1111/stable-diffusion-webui: modules/devices.py, modules/shared.py, modules/scripts.py,
modules/processing.py; what is asked for: pkuliyi2015/multidiffusion-upscaler-for-automatic1111,
scripts/tilevae.py and tile_utils), and refuse the rest by an error that says so. Nothing of a user
interface is drawn.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor

from vae_compat.subject.hosts.standing import packaged, stand_in

ROOTS = ("modules", "ldm", "gradio", "k_diffusion")
"""Top-level modules that belong to the host."""
_TITLE = "the web UI"
_PROCESSING = ("StableDiffusionProcessing", "StableDiffusionProcessingImg2Img", "Processed")
_DENOISERS = ("CFGDenoiser", "CFGDenoiserKDiffusion")
_TIMESTEPS = (
    "CompVisSampler",
    "CFGDenoiserTimesteps",
    "CompVisTimestepsDenoiser",
    "CompVisTimestepsVDenoiser",
)
_ATTENTION = (
    "xformers",
    "force_enable_xformers",
    "xformers_flash_attention",
    "opt_sdp_no_mem_attention",
    "opt_sdp_attention",
    "opt_sub_quad_attention",
    "opt_split_attention",
    "opt_split_attention_v1",
    "opt_split_attention_invokeai",
    "disable_opt_split_attention",
)
"""Switches of the command line, all off."""


class NansException(Exception):  # noqa: N818 (the host's name)
    """A result holds nothing but NaN."""


class Script:
    """The base class of an extension's script."""

    def title(self) -> str:
        """What the interface calls it."""
        raise NotImplementedError


def build(device: torch.device, dtype: torch.dtype) -> dict[str, ModuleType]:
    """Fresh stand-ins for a case that runs on ``device`` in ``dtype``."""
    return packaged(
        _module("modules"),
        _module("modules.devices", **_devices(device, dtype)),
        _module("modules.shared", **_shared(device)),
        _module("modules.errors", display_once=lambda *_: None),
        _module("modules.scripts", Script=Script, AlwaysVisible=object(), basedir=lambda: "."),
        _module("modules.ui", gr_show=lambda visible=True: {"visible": visible}),
        _module("modules.ui_components", InputAccordion=None),
        _module("modules.processing", opt_f=8, opt_C=4, **_types(*_PROCESSING)),
        _module("modules.sd_vae_approx", cheap_approximation=_cheap_approximation),
        _module("modules.sub_quadratic_attention", efficient_dot_product_attention=_attention),
        _module("modules.sd_hijack", model_hijack=SimpleNamespace(optimization_method="none")),
        _module(
            "modules.sd_hijack_optimizations",
            get_available_vram=lambda: _free(device),
            get_xformers_flash_attention_op=lambda *_: None,
            sub_quad_attention=_attention,
        ),
        _module(
            "modules.prompt_parser",
            **_types("MulticondLearnedConditioning", "ScheduledPromptConditioning"),
        ),
        _module("modules.extra_networks", **_types("ExtraNetworkParams")),
        _module("modules.shared_state", **_types("State")),
        _module("modules.sd_samplers_kdiffusion", **_types(*_DENOISERS, "KDiffusionSampler")),
        _module("modules.sd_samplers_timesteps", **_types(*_TIMESTEPS)),
        _module("modules.sd_samplers_compvis", **_types("VanillaStableDiffusionSampler")),
        _module("ldm"),
        _module("ldm.modules"),
        _module("ldm.modules.diffusionmodules"),
        _module(
            "ldm.modules.diffusionmodules.model",
            **_types("AttnBlock", "MemoryEfficientAttnBlock", "ResnetBlock"),
        ),
        _module("ldm.models"),
        _module("ldm.models.diffusion"),
        _module("ldm.models.diffusion.ddpm", **_types("LatentDiffusion")),
        _module("gradio"),
        _module("gradio.components", **_types("Component")),
        _module("k_diffusion"),
        _module("k_diffusion.external", **_types("CompVisDenoiser", "CompVisVDenoiser")),
    )


def _module(name: str, **names: Any) -> ModuleType:
    return stand_in(name, _TITLE, **names)


def _types(*names: str) -> dict[str, Any]:
    """Classes that are named in annotations and ``isinstance`` alone."""
    return {name: type(name, (), {}) for name in names}


def _devices(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Names of ``modules.devices``."""

    def torch_gc() -> None:
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def test_for_nans(x: Tensor, where: str) -> None:
        if bool(torch.all(torch.isnan(x)).item()):
            raise NansException(f"A tensor with all NaNs was produced in {where}.")

    def no_autocast(disable: bool = False) -> AbstractContextManager[None]:
        del disable
        return nullcontext()

    return {
        "cpu": torch.device("cpu"),
        "device": device,
        "dtype": dtype,
        "dtype_vae": dtype,
        "get_optimal_device": lambda: device,
        "get_optimal_device_name": lambda: str(device),
        "get_device_for": lambda _task: device,
        "torch_gc": torch_gc,
        "autocast": no_autocast,
        "without_autocast": no_autocast,
        "test_for_nans": test_for_nans,
        "NansException": NansException,
    }


def _shared(device: torch.device) -> dict[str, Any]:
    """Names of ``modules.shared``: default settings, and nothing that was interrupted."""
    chunks = dict.fromkeys(("sub_quad_kv_chunk_size", "sub_quad_chunk_threshold"))
    command: dict[str, object] = (
        dict.fromkeys(_ATTENTION, False) | {"sub_quad_q_chunk_size": 1024} | chunks
    )
    return {
        "state": SimpleNamespace(interrupted=False, skipped=False, job="", job_count=0),
        "opts": SimpleNamespace(upcast_attn=False),
        "cmd_opts": SimpleNamespace(**command),
        "device": device,
        "xformers_available": False,
        "sd_model": None,
    }


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


_PREVIEWED = (4, 16)
"""Channels of the latents of SD and SDXL, and of SD3."""


def _cheap_approximation(sample: Tensor) -> Tensor:
    """A preview ``3 H W`` of a latent ``C H W``: grey, because it is not looked at.

    Of images the web UI makes none, and hooks catch its error (modules/sd_vae_approx.py). Raises
    ``RuntimeError``.
    """
    if sample.shape[0] not in _PREVIEWED:
        raise RuntimeError(f"no preview is made of {sample.shape[0]} channels")
    return sample.mean(0, keepdim=True).expand(3, -1, -1)


def _attention(query: Tensor, key: Tensor, value: Tensor, **chunks: Any) -> Tensor:
    """Attention ``B N C``; the sizes of chunks save memory and change nothing."""
    del chunks
    return torch.nn.functional.scaled_dot_product_attention(query, key, value)
