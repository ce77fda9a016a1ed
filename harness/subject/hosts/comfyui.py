"""Stand-ins for the ComfyUI modules that nodes import: ``comfy``, ``nodes``, ``folder_paths``.

They answer what tiled-VAE nodes ask for, with ComfyUI's names and calling conventions
(comfyanonymous/ComfyUI: comfy/model_management.py, comfy/utils.py, comfy/sd.py, nodes.py,
folder_paths.py), and refuse the rest by an error that says so. They load no models and keep nothing
between uses.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any

import psutil
import torch
from torch import Tensor

from vae_compat.subject.hosts import comfyui_tiling as tiling
from vae_compat.subject.hosts import comfyui_vae
from vae_compat.subject.hosts.standing import packaged, stand_in

ROOTS = ("comfy", "nodes", "folder_paths")
"""Top-level modules that belong to the host."""


def build(device: torch.device, dtype: torch.dtype) -> dict[str, ModuleType]:
    """Fresh stand-ins for a case that runs on ``device`` in ``dtype``."""
    management = _management(device, dtype)
    return packaged(
        _module("comfy"),
        _module("comfy.model_management", **management),
        _module("comfy.sd", VAE=comfyui_vae.wrapper(device, dtype, management)),
        _module("comfy.utils", **_utils()),
        _module("nodes", **_nodes()),
        _module("folder_paths", **_folder_paths()),
    )


class ProgressBar:
    """A progress bar that counts and shows nothing."""

    def __init__(self, total: int, node_id: object = None) -> None:
        del node_id
        self.total = total
        self.current = 0

    def update_absolute(self, value: int, total: int | None = None, preview: object = None) -> None:
        """Set the count."""
        del preview
        self.total = self.total if total is None else total
        self.current = min(value, self.total)

    def update(self, value: int) -> None:
        """Add to the count."""
        self.update_absolute(self.current + value)


class InterruptProcessingException(Exception):  # noqa: N818 (the host's name)
    """The user pressed stop."""


class VRAMState(Enum):
    """How much memory the host assumes to have."""

    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4
    SHARED = 5


class CPUState(Enum):
    """What computes."""

    GPU = 0
    CPU = 1
    MPS = 2


class VAEEncode:
    """The node that encodes pixels ``B H W C`` with the whole VAE."""

    FUNCTION = "encode"
    RETURN_TYPES = ("LATENT",)

    def encode(self, vae: Any, pixels: Tensor) -> tuple[dict[str, Any]]:
        """``({"samples": latent},)``."""
        return ({"samples": vae.encode(pixels[..., :3])},)


class VAEDecode:
    """The node that decodes a latent with the whole VAE."""

    FUNCTION = "decode"
    RETURN_TYPES = ("IMAGE",)

    def decode(self, vae: Any, samples: dict[str, Any]) -> tuple[Any]:
        """``(image,)``."""
        return (vae.decode(samples["samples"]),)


def _module(name: str, **names: Any) -> ModuleType:
    return stand_in(name, "ComfyUI", "; use --comfyui PATH to import the real one", **names)


def _management(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Names of ``comfy.model_management``."""
    cpu = torch.device("cpu")
    interrupted = False

    def always(value: object) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: value

    def device_type(of: Any) -> str:
        return str(getattr(of, "type", None) or torch.device(of).type)

    def interrupt(value: bool = True) -> None:
        nonlocal interrupted
        interrupted = value

    def throw_if_interrupted() -> None:
        nonlocal interrupted
        if interrupted:
            interrupted = False
            raise InterruptProcessingException

    def memory(of: Any, which: int) -> int:
        where = torch.device(device if of is None else of)
        if where.type == "cuda":
            return int(torch.cuda.mem_get_info(where)[which])
        host = psutil.virtual_memory()
        return int((host.available, host.total)[which])

    def free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
        free = memory(dev, 0)
        return (free, free) if torch_free_too else free

    def total_memory(dev: Any = None, torch_total_too: bool = False) -> Any:
        total = memory(dev, 1)
        return (total, total) if torch_total_too else total

    def empty_cache(force: bool = False) -> None:
        del force
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def cast_to(
        weight: Tensor,
        dtype: torch.dtype | None = None,
        device: Any = None,
        non_blocking: bool = False,
        copy: bool = False,
    ) -> Tensor:
        return weight.to(device=device, dtype=dtype, non_blocking=non_blocking, copy=copy)

    def cast_to_device(
        tensor: Tensor, device: Any, dtype: torch.dtype | None, copy: bool = False
    ) -> Tensor:
        return cast_to(tensor, dtype, device, copy=copy)

    names: dict[str, Any] = {
        "get_torch_device": always(device),
        "vae_device": always(device),
        "text_encoder_device": always(device),
        "vae_offload_device": always(cpu),
        "intermediate_device": always(cpu),
        "unet_offload_device": always(cpu),
        "text_encoder_offload_device": always(cpu),
        "vae_dtype": always(dtype),
        "unet_dtype": always(dtype),
        "text_encoder_dtype": always(dtype),
        "dtype_size": lambda of: torch.empty((), dtype=of).element_size(),
        "get_torch_device_name": str,
        "get_autocast_device": lambda of: getattr(of, "type", "cuda"),
        "is_device_type": lambda of, kind: device_type(of) == kind,
        "is_device_cpu": lambda of: device_type(of) == "cpu",
        "is_device_cuda": lambda of: device_type(of) == "cuda",
        "is_device_mps": lambda of: device_type(of) == "mps",
        "is_nvidia": always(device.type == "cuda"),
        "cpu_mode": always(device.type == "cpu"),
        "should_use_fp16": always(dtype is torch.float16),
        "should_use_bf16": always(dtype is torch.bfloat16),
        "pytorch_attention_enabled": always(True),
        "pytorch_attention_enabled_vae": always(True),
        "get_free_memory": free_memory,
        "get_total_memory": total_memory,
        "soft_empty_cache": empty_cache,
        "free_memory": always([]),
        "minimum_inference_memory": always(1024**3),
        "extra_reserved_memory": always(0),
        "module_size": lambda module: sum(
            t.numel() * t.element_size() for t in module.state_dict().values()
        ),
        "cast_to": cast_to,
        "cast_to_device": cast_to_device,
        "processing_interrupted": lambda: interrupted,
        "interrupt_current_processing": interrupt,
        "throw_exception_if_processing_interrupted": throw_if_interrupted,
        "InterruptProcessingException": InterruptProcessingException,
        "OOM_EXCEPTION": torch.OutOfMemoryError,
        "VRAMState": VRAMState,
        "CPUState": CPUState,
        "vram_state": VRAMState.NORMAL_VRAM if device.type == "cuda" else VRAMState.DISABLED,
        "cpu_state": CPUState.CPU if device.type == "cpu" else CPUState.GPU,
        "current_loaded_models": [],
        "DISABLE_SMART_MEMORY": False,
    }
    for name in ("is_amd", "is_intel_xpu", "is_ascend_npu", "is_mlu", "is_directml_enabled"):
        names[name] = always(False)
    for name in ("xformers_enabled", "xformers_enabled_vae", "sage_attention_enabled", "mps_mode"):
        names[name] = always(False)
    for name in (
        "flash_attention_enabled",
        "device_supports_non_blocking",
        "force_upcast_attention",
    ):
        names[name] = always(False)
    for name in ("load_models_gpu", "load_model_gpu", "unload_all_models", "cleanup_models"):
        names[name] = always(None)
    return names


def _utils() -> dict[str, Any]:
    """Names of ``comfy.utils``."""
    return {
        "ProgressBar": ProgressBar,
        "PROGRESS_BAR_ENABLED": True,
        "PROGRESS_BAR_HOOK": None,
        "get_tiled_scale_steps": tiling.get_tiled_scale_steps,
        "tiled_scale": tiling.tiled_scale,
        "tiled_scale_multidim": tiling.tiled_scale_multidim,
        "set_progress_bar_enabled": lambda _enabled: None,
        "set_progress_bar_global_hook": lambda _function: None,
    }


def _nodes() -> dict[str, Any]:
    """Names of ``nodes``."""
    return {
        "VAEEncode": VAEEncode,
        "VAEDecode": VAEDecode,
        "MAX_RESOLUTION": 16384,
        "NODE_CLASS_MAPPINGS": {},
        "NODE_DISPLAY_NAME_MAPPINGS": {},
        "EXTENSION_WEB_DIRS": {},
    }


def _folder_paths() -> dict[str, Any]:
    """Names of ``folder_paths``: no models, and the system's temporary folder for files."""
    scratch = tempfile.gettempdir()
    names: dict[str, Any] = {
        "base_path": scratch,
        "models_dir": os.path.join(scratch, "models"),  # noqa: PTH118 (the host has strings)
        "folder_names_and_paths": {},
        "supported_pt_extensions": {".safetensors", ".ckpt", ".pt", ".pth", ".bin"},
        "get_filename_list": lambda _folder: [],
        "get_full_path": lambda _folder, _file: None,
        "get_folder_paths": lambda _folder: [],
        "add_model_folder_path": lambda *_args, **_kwargs: None,
    }
    for kind in ("output", "temp", "input", "user"):
        names[f"get_{kind}_directory"] = lambda: scratch
    return names
