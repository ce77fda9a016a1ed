"""A VAE whose weights are elsewhere: each module brings in its own when it is called.

ComfyUI's layers keep weights on the host and cast them to the device of their input
(comfyanonymous/ComfyUI, comfy/ops.py: ``CastWeightBiasOp``). The hooks of accelerate leave them on
``meta`` and set them for the time of a call (huggingface/accelerate, hooks.py: ``AlignDevicesHook``
with ``offload``). What reads ``module.weight`` finds it on the wrong device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Layout
from vae_compat.contracts.coders import LayoutVAE

Tensors = dict[str, Tensor | None]


@contextmanager
def offloaded(view: LayoutVAE) -> Iterator[None]:
    """The modules of a view bring in their weights: as in diffusers, or in ComfyUI's layouts."""
    on_meta = view.layout == Layout.DIFFUSERS
    with ExitStack() as stack:
        for module in nn.ModuleList([view.vae, view.encoder, view.decoder]).modules():
            own = (*module._parameters.values(), *module._buffers.values())
            if any(tensor is not None for tensor in own):
                stack.enter_context(_bringing_in(module, on_meta=on_meta))
        yield


@contextmanager
def _bringing_in(module: nn.Module, *, on_meta: bool) -> Iterator[None]:
    kind = type(module)
    kept: tuple[Tensors, Tensors] = (dict(module._parameters), dict(module._buffers))
    names = {"forward": _forward(kind, *kept), "__module__": kind.__module__}
    module.__class__ = type(kind.__name__, (kind,), names)
    if on_meta:
        for held in (module._parameters, module._buffers):
            held.update({name: _on_meta(tensor) for name, tensor in held.items()})  # type: ignore[arg-type]
    try:
        yield
    finally:
        module.__class__ = kind
        for held, before in zip((module._parameters, module._buffers), kept, strict=True):
            held.update(before)  # type: ignore[arg-type]


def _forward(kind: type[nn.Module], parameters: Tensors, buffers: Tensors) -> Callable[..., Any]:
    """The forward of a class for one module: on a twin with weights where the input is.

    The module itself is not changed: several threads may call it at once.
    """

    def forward(module: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        there: dict[str, Any] = {
            "_parameters": {name: _to(tensor, x) for name, tensor in parameters.items()},
            "_buffers": {name: _to(tensor, x) for name, tensor in buffers.items()},
        }
        twin = object.__new__(kind)
        vars(twin).update(vars(module) | there)
        return kind.forward(twin, x, *args, **kwargs)

    return forward


def _to(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(x.device)


def _on_meta(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
