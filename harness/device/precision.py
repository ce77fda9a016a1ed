"""Half precision as on a GPU: sums are computed in float32 and rounded once.

Tensor cores and the reductions of CUDA multiply and add bfloat16 and float16 numbers in float32
and round the result (``at::opmath_type``, ``at::acc_type`` in pytorch; ``CUBLAS_COMPUTE_32F``;
cuDNN's ``CUDNN_DATA_FLOAT`` as type of the computation). A CPU does so only where it has the
instructions, and takes another, far slower way elsewhere. Here every CPU computes such an
operation on float32 copies, so that the bits are the same on all of them. The copies are scratch
memory of the simulator: the books of the device know nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vae_compat.device.lengths import vector_norm

Operation = Callable[..., Any]

QUICKER: dict[Any, Operation] = {torch.ops.aten.linalg_vector_norm.default: vector_norm}
"""What computes an operation in the place of a CPU kernel that is slow."""

HALVES = frozenset({torch.bfloat16, torch.float16})

NORMS = frozenset(
    {
        "native_group_norm",
        "native_layer_norm",
        "native_batch_norm",
        "batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "_fused_rms_norm",
        "cudnn_batch_norm",
    }
)
"""Operations that take a half-precision input with parameters in float32, too."""

SUMS = NORMS | frozenset(
    {
        *("convolution", "_convolution", "convolution_overrideable"),
        *("mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "addr", "mv", "dot", "vdot"),
        *("linear", "matmul", "_addmm_activation"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_softmax", "_log_softmax", "logsumexp"),
        *("sum", "nansum", "mean", "var", "var_mean", "std", "std_mean", "prod", "cumsum"),
        *("norm", "linalg_vector_norm", "_cdist_forward", "cumprod", "logcumsumexp"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"),
        *("_adaptive_avg_pool3d", "upsample_linear1d", "upsample_bilinear2d"),
        *("upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"),
        *("_upsample_bicubic2d_aa", "grid_sampler_2d", "grid_sampler_3d"),
    }
)
"""Operations (of ``aten``) that add up products or elements."""

WIDE_STATISTICS = frozenset({"_scaled_dot_product_flash_attention_for_cpu", "_fused_rms_norm"})
"""Operations whose results after the first are float32 whatever goes in."""

SOFTMAX = frozenset({"_softmax", "_log_softmax"})


def in_float32(func: Any) -> Operation:
    """What to call for an operation: itself, or a form that computes halves in float32.

    ``func`` is an overload such as ``torch.ops.aten.mm.default``; the form takes the same
    arguments and gives results of the same dtypes, shapes and strides.
    """
    op: Operation = QUICKER.get(func, func._op)
    name = str(func._schema.name).removeprefix("aten::").removesuffix("_")
    if func.namespace != "aten" or name not in SUMS:
        return op
    writes = func._schema.is_mutable
    return _written(func, name, op) if writes else _returned(name, op)


def _returned(name: str, op: Operation) -> Operation:
    wide = name in WIDE_STATISTICS
    to_float = name in SOFTMAX

    def compute(*args: Any, **kwargs: Any) -> Any:
        half, widened = halves(args, kwargs)
        if half is None or (widened and name not in NORMS):
            return op(*args, **kwargs)
        wanted = kwargs.get("dtype")
        if wanted is not None and wanted != half:
            return op(*args, **kwargs)  # accumulates in the dtype that is asked for
        inner, plain = widen(args), {key: widen(value) for key, value in kwargs.items()}
        if wanted is not None:
            plain["dtype"] = torch.float32
        if to_float and inner[2]:  # half goes in and float32 comes out: a form of CUDA alone
            return op(inner[0], inner[1], False)
        out = op(*inner, **plain)
        if isinstance(out, Tensor):
            return out.to(half)
        first, *others = out
        keeps = wide or widened
        return (first.to(half), *(others if keeps else [_narrow(part, half) for part in others]))

    return compute


def _written(func: Any, name: str, op: Operation) -> Operation:
    """In place or ``out=``: computed aside, and copied to where it belongs."""
    arguments = func._schema.arguments
    places = [
        (i, argument.name)
        for i, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]

    def compute(*args: Any, **kwargs: Any) -> Any:
        half, widened = halves(args, kwargs)
        if half is None or (widened and name not in NORMS):
            return op(*args, **kwargs)
        inner, plain = widen(args), {key: widen(value) for key, value in kwargs.items()}
        if plain.get("dtype") is not None:
            plain["dtype"] = torch.float32
        out = op(*inner, **plain)
        for i, key in places:
            target: Any = args[i] if i < len(args) else kwargs.get(key)
            result: Any = inner[i] if i < len(args) else plain.get(key)
            if isinstance(target, Tensor) and target is not result:
                if target.shape != result.shape:
                    target.resize_(result.shape)
                target.copy_(result)
        return out

    return compute


def halves(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[torch.dtype | None, bool]:
    """The one half-precision dtype among these tensors, and whether others are of float32.

    ``None`` where the tensors have none, or two: then the operation is left to itself, which may
    refuse.
    """
    half: torch.dtype | None = None
    widened = False
    for arg in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
            if dtype in HALVES:
                if half is not None and dtype != half:
                    return None, False
                half = dtype
            elif dtype is torch.float32:
                widened = True
    return half, widened


def widen(value: Any) -> Any:
    """Half-precision tensors in float32; of arguments in a row, all of them."""
    if isinstance(value, Tensor):
        return value.to(torch.float32) if value.dtype in HALVES else value
    return tuple(widen(part) for part in value) if isinstance(value, tuple) else value


def _narrow(part: Any, half: torch.dtype) -> Any:
    return part.to(half) if isinstance(part, Tensor) and part.dtype is torch.float32 else part
