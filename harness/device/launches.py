"""Which kernels a GPU runs for an operation, and what they read, write and compute.

Facts about kernels are those of pytorch's CUDA back end: ``native_group_norm`` takes its moments
with one thread block per item and group (``group_norm_kernel.cu``, ``RowwiseMomentsCUDAKernel``);
``cudnn_convolution`` adds the bias in a kernel of its own (``Conv_v8.cpp``), and cuDNN's kernels
for tensor cores take channels-last tensors, so that others are converted on the way in and out.
"""

# ruff: noqa: ARG001 - every launch and every description is called alike
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vae_compat.device.precision import HALVES
from vae_compat.device.trace import Kernels, Part, Trace

Args = Sequence[Any]
Launch = Callable[[Args, Mapping[str, Any], Any, int], int]
"""Called with plain arguments, output and FLOPs of an operation that has just run, while the
device is metered; gives the bytes of scratch memory that its kernels take."""
Described = tuple[tuple[Part, ...], int]
"""Kernels, and bytes of scratch memory."""

PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear"})
COPYING = frozenset({"clone", "_to_copy", "copy_"})
OVERWRITING = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_"})
"""Operations in place that do not read what they write to."""
EMPTY = ("empty", "new_empty", "resize")
"""Beginnings of the names of operations that run no kernel."""
MANY_PASSES = {
    "sort": 6,
    "topk": 4,
    "nonzero": 3,
    "_unique2": 8,
    "unique_dim": 8,
    "masked_select": 4,
    "kthvalue": 4,
    "median": 6,
}
"""Operations that go over their input several times, and how many kernels they are."""
LEAST_COLUMNS = 32
"""Output channels that a tensor-core kernel computes at least; fewer are padded."""


def launcher(trace: Trace, func: Any) -> Launch | None:
    """A function that records an operation's kernels; ``None`` where it runs none."""
    name = str(func._schema.name).removeprefix("aten::")
    if name.startswith(EMPTY):
        return None
    if name in ("convolution", "_convolution", "convolution_overrideable"):
        return _described(trace, name, _convolution)
    if name == "native_group_norm":
        return _described(trace, name, _group_norm)
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return _described(trace, name, _attention)
    if name.removesuffix("_") in PRODUCTS:
        return _plain(trace, name, "matmul", 1)
    if name in COPYING:
        return _copying(trace, name)
    return _plain(trace, name, "memory", MANY_PASSES.get(name, 1))


def _plain(trace: Trace, name: str, work: str, passes: int) -> Launch:
    """One kernel (or several alike) that reads every input and writes every output."""
    codes = trace.codes
    events = trace.events
    first = 1 if name in OVERWRITING else 0

    def launch(args: Args, kwargs: Mapping[str, Any], out: Any, flops: int) -> int:
        read = nbytes_of(args[first:] if first else args)
        written = out.nbytes if isinstance(out, Tensor) else nbytes_of((out,))
        key = (name, trace.stream, read, written, flops)
        code = codes.get(key)
        if code is None:
            dtype = _dtype(args) if flops else ""
            part = Part(work, read + written, flops, dtype)
            parts = (part._replace(flops=0),) * (passes - 1) + (part,)
            code = trace.intern(key, Kernels(name, trace.stream, read, written, parts))
        events.append(code)
        return 0

    return launch


def _copying(trace: Trace, name: str) -> Launch:
    codes = trace.codes
    events = trace.events

    def launch(args: Args, kwargs: Mapping[str, Any], out: Any, flops: int) -> int:
        source = args[1] if name == "copy_" else args[0]
        read, written = source.nbytes, out.nbytes
        work = "memory" if _alike(source, out) else "relayout"
        key = (name, trace.stream, read, written, work)
        code = codes.get(key)
        if code is None:
            part = Part(work, read + written)
            code = trace.intern(key, Kernels(name, trace.stream, read, written, (part,)))
        events.append(code)
        return 0

    return launch


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors run fastest along the same dimension."""
    return _fastest(one) == _fastest(other)


def _fastest(tensor: Tensor) -> int:
    strides, shape = tensor.stride(), tensor.shape
    best, least = -1, 0
    for d, stride in enumerate(strides):
        if shape[d] > 1 and (best < 0 or stride < least):
            best, least = d, stride
    return best


def _described(trace: Trace, name: str, describe: Callable[[Args, Any, int], Described]) -> Launch:
    """Kernels that depend on shapes and layouts; computed once for each."""
    codes = trace.codes
    events = trace.events
    scratch: dict[int, int] = {}

    def launch(args: Args, kwargs: Mapping[str, Any], out: Any, flops: int) -> int:
        first = out if isinstance(out, Tensor) else out[0]
        x, w = args[0], args[1]
        key = (
            *(name, trace.stream, x.shape, x.stride(), x.dtype, first.shape, first.stride()),
            *((w.shape, w.stride()) if isinstance(w, Tensor) else ()),
            args[6] if name == "native_group_norm" else args[2] is None,
        )
        code = codes.get(key)
        if code is None:
            parts, bytes_of_scratch = describe(args, out, flops)
            read = nbytes_of(args) + bytes_of_scratch
            written = first.nbytes + bytes_of_scratch
            code = trace.intern(key, Kernels(name, trace.stream, read, written, parts))
            scratch[code] = bytes_of_scratch
        events.append(code)
        return scratch[code]

    return launch


def _convolution(args: Args, out: Tensor, flops: int) -> Described:
    x, weight, bias = args[0], args[1], args[2]
    groups = args[8] if len(args) > 8 else 1
    dtype = str(x.dtype).removeprefix("torch.")
    ideal = x.nbytes + weight.nbytes + out.nbytes
    after = () if bias is None else (Part("memory", 2 * out.nbytes),)
    if groups > 1 and groups == x.shape[1]:
        return (Part("memory", ideal, flops, ""), *after), 0
    columns = max(1, weight.shape[0] // groups)
    padded = flops * max(columns, LEAST_COLUMNS) // columns
    product = Part("convolution", ideal, padded, dtype)
    if is_channels_last(x) or is_channels_last(weight):
        before = () if is_channels_last(x) else (Part("relayout", 2 * x.nbytes),)
        scratch = 0 if is_channels_last(x) else x.nbytes
        return (*before, product, *after), scratch
    if x.dtype not in HALVES:
        return (product, *after), 0
    there, back = Part("transpose", 2 * x.nbytes), Part("transpose", 2 * out.nbytes)
    return (there, product, back, *after), x.nbytes + out.nbytes


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is laid out with its channels innermost, and in no other way."""
    if tensor.dim() not in (4, 5):
        return False
    last = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    return tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous()


def _group_norm(args: Args, out: Any, flops: int) -> Described:
    x, items, groups = args[0], args[3], args[6]
    dtype = str(x.dtype).removeprefix("torch.")
    moments = Part("statistics", x.nbytes, 0, dtype, items * groups, x.numel())
    factors = Part("memory", 8 * items * args[4])
    return (moments, factors, Part("memory", 2 * x.nbytes)), 0


def _attention(args: Args, out: Any, flops: int) -> Described:
    query, key = args[0], args[1]
    *batch, rows, width = query.shape
    products = 4 * rows * key.shape[-2] * width
    for size in batch:
        products *= size
    nbytes = nbytes_of(args[:3]) + out[0].nbytes
    return (Part("attention", nbytes, products, str(query.dtype).removeprefix("torch.")),), 0


def nbytes_of(args: Args) -> int:
    """Bytes of all tensors among arguments, those in lists included."""
    total = 0
    for arg in args:
        if isinstance(arg, Tensor):
            total += arg.nbytes
        elif type(arg) in (list, tuple):
            for part in arg:
                if isinstance(part, Tensor):
                    total += part.nbytes
    return total


def _dtype(args: Args) -> str:
    for arg in args:
        if isinstance(arg, Tensor):
            return str(arg.dtype).removeprefix("torch.")
    return ""
