"""Coders that are not as plain as those of most cases: what hosts and other patches make of them.

*Offloaded*: each module brings in its weights when it is called. ComfyUI's layers keep weights on
the host and cast them to the device of their input (comfyanonymous/ComfyUI, comfy/ops.py:
``CastWeightBiasOp``). The hooks of accelerate leave them on ``meta`` and set them for the time of a
call (huggingface/accelerate, hooks.py: ``AlignDevicesHook``). What reads ``module.weight`` finds it
on the wrong device.

*Static*: each call returns the same memory, as a CUDA graph does (hao-ai-lab/FastVideo#1734).

*Patched*: somebody else has replaced forwards already (sgl-project/sglang#34424).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Layout
from vae_compat.contracts.coders import LayoutVAE, coder_of
from vae_compat.scenarios.comparison import same
from vae_compat.scenarios.results import Results
from vae_compat.scenarios.stage import Player
from vae_compat.scenarios.usage import Usage, UsageObserved, call, each_ran, observed, ran

WHOLE = "the coder itself"
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
    names = {
        "forward": _forward(kind, *kept),
        "__module__": kind.__module__,
        "comfy_cast_weights": not on_meta,
    }
    module.__class__ = type(kind.__name__, (kind,), names)
    held: tuple[Any, ...] = (module._parameters, module._buffers)
    if on_meta:
        for tensors in held:
            tensors.update({name: _on_meta(tensor) for name, tensor in tensors.items()})
    try:
        yield
    finally:
        module.__class__ = kind
        for tensors, before in zip(held, kept, strict=True):
            tensors.update(before)


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


def _play_offloaded(player: Player) -> None:
    call(player, "weights that modules bring in when they are called")


OFFLOADED = Usage(_play_offloaded, each_ran, on_host=True, prepared=offloaded)


@contextmanager
def static(view: LayoutVAE) -> Iterator[None]:
    """Each coder of a view returns the same memory for all results of one shape."""
    kinds = [(coder, type(coder)) for coder in (view.encoder, view.decoder)]
    for coder, kind in kinds:
        names = {"forward": _into_buffers(kind), "__module__": kind.__module__}
        coder.__class__ = type(kind.__name__, (kind,), names)
    try:
        yield
    finally:
        for coder, kind in kinds:
            coder.__class__ = kind


def _into_buffers(kind: type[nn.Module]) -> Callable[..., Any]:
    buffers: dict[tuple[Any, ...], Tensor] = {}

    @functools.wraps(kind.forward)
    def forward(coder: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = kind.forward(coder, *args, **kwargs)
        if not isinstance(result, Tensor):
            return result
        key = (result.shape, result.dtype, result.device)
        if key not in buffers:
            buffers[key] = result.clone()
        return buffers[key].copy_(result)

    return forward


def _play_static(player: Player) -> None:
    call(player, "a plain coder")
    with static(player.view):
        call(player, "a coder that returns the same memory for each call")


def _compare_static(results: Results) -> UsageObserved:
    plain = ran(results, 0)
    if plain.seen.output is None:
        return observed(results)
    again = ran(results, 1)
    found = same(again.what, plain.seen.output, again.seen.output, again.seen.failure)
    return observed(results, ran=(plain, again), comparisons=(found,))


STATIC = Usage(_play_static, _compare_static)


def _play_patched(player: Player) -> None:
    """The patches change nothing and note that they were called."""
    coder = coder_of(player.view, player.case.direction)
    missed: dict[str, None] = {}
    with ExitStack() as stack:
        for name, module in coder.named_modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                missed[name] = None
                stack.enter_context(_patched(module, functools.partial(missed.pop, name, None)))
        missed[WHOLE] = None
        stack.enter_context(_patched(coder, functools.partial(missed.pop, WHOLE, None)))
        call(player, "a coder that somebody else has patched")
    player.passed_by = tuple(missed)


@contextmanager
def _patched(module: nn.Module, note: Callable[[], None]) -> Iterator[None]:
    """An instance attribute in the place of a forward, as patches set it."""
    forward = module.forward

    @functools.wraps(forward)
    def patch(*args: Any, **kwargs: Any) -> Any:
        note()
        return forward(*args, **kwargs)

    vars(module)["forward"] = patch
    try:
        yield
    finally:
        vars(module).pop("forward", None)


def _compare_patched(results: Results) -> UsageObserved:
    return replace(each_ran(results), passed_by=results.played.passed_by)


PATCHED = Usage(_play_patched, _compare_patched)
