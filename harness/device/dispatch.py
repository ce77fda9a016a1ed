"""Runs every operation of a simulated accelerator on the CPU, and does its accounting.

The first time an operation is met, a rule is made for it from its schema; a rule is a closure
that is called with the arguments. Kinds of rules:

- *view*: every output is another look at the allocation of an argument
- *writing*: in place or ``out=``; nothing new is allocated, the tensor written is returned
- *creating*: takes ``device=``
- *composed*: made of other operations (only in inference mode they arrive in one piece)
- *fresh*: every output is a new allocation
- those of ``vae_compat.device.transfers``: copies between devices, reads by the host, attention
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.device.composites import compose, is_composite
from vae_compat.device.ledger import Block, Ledger
from vae_compat.device.precision import in_float32
from vae_compat.device.recording import recorder
from vae_compat.device.streams import Streams
from vae_compat.device.tensor import (
    HOST,
    ORDINAL,
    SimTensor,
    become,
    is_alias_of,
    mixed_devices,
    wrap,
)

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Rule = Callable[[Args, Kwargs], Any]
Unwrap = Callable[[Args, Kwargs], tuple[list[Any], Kwargs, SimTensor | None]]

RESHAPING = [
    "as_strided_",
    "resize_",
    "resize_as_",
    "set_",
    "squeeze_",
    "swapaxes_",
    "swapdims_",
    "t_",
    "transpose_",
    "unsqueeze_",
]
"""In-place operations that change the shape or the storage of the tensor they are called on."""


class Accelerator(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The dispatch mode of one opened device: every operation in its scope comes through here."""

    def __init__(
        self,
        ledger: Ledger,
        streams: Streams,
        *special: Callable[[Accelerator], dict[Any, Rule]],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self.streams = streams
        self.left = False
        """Whether the device was left; a thread that outlives it computes on the host alone."""
        self._rules: dict[int, Rule] = {}
        self._functions: list[Any] = []
        for rules in special:
            for func, rule in rules(self).items():
                self._remember(func, rule)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return (
            False  # without this every operation passes one more wrapper; nothing is compiled here
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        rule = self._rules.get(id(func))
        if rule is None:
            if self.left:
                return func(*args, **(kwargs or {}))
            rule = self._remember(func, make_rule(self, func))
        ledger = self.ledger
        if ledger.capture is not None:
            result = rule(args, kwargs or {})
            ledger.capture.add(rule, args, kwargs or {}, result)
            return result
        lock = ledger.lock
        if lock is None:
            return rule(args, kwargs or {})
        with lock:
            self.streams.enter_thread()
            return rule(args, kwargs or {})

    def perform(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        """Run an operation that did not come through the mode."""
        with torch._C.DisableTorchFunction():
            return self.__torch_dispatch__(func, (), args, kwargs)

    def forget(self) -> None:
        """Drop the rules, which hold the accelerator in turn."""
        self.left = True
        self._rules.clear()
        self._functions.clear()

    def _remember(self, func: Any, rule: Rule) -> Rule:
        self._functions.append(func)  # so that its id is not reused
        self._rules[id(func)] = rule
        return rule


def make_rule(accelerator: Accelerator, func: Any) -> Rule:
    """The rule for an operation, from its schema."""
    schema = func._schema
    if func.namespace == "prim":  # metadata queries on a tensor without data
        return lambda args, kwargs: func(*args, **kwargs)
    takes_device = any(argument.name == "device" for argument in schema.arguments)
    if is_composite(func):
        return _composed(accelerator, func, takes_device)
    if takes_device:
        return _creating(accelerator, func)
    if schema.is_mutable:
        return _writing(accelerator, func)
    aliased = [result.alias_info is not None for result in schema.returns]
    if any(aliased) or "unsafe_" in schema.name:
        return _view(func)
    return _fresh(accelerator, func)


@functools.cache
def unwrapper(func: Any) -> Unwrap:
    """A function that gives the inner arguments of an operation, and one of its device tensors.

    Raises (when called):
        RuntimeError: where tensors of the host and of the device meet, unless the one on the host
            has no dimensions.
    """
    arguments = func._schema.arguments
    kinds = [str(argument.type) for argument in arguments]
    single = tuple(i for i, kind in enumerate(kinds) if kind in ("Tensor", "Optional[Tensor]"))
    listed = tuple(
        i for i, kind in enumerate(kinds) if kind in ("List[Tensor]", "List[Optional[Tensor]]")
    )
    nested = tuple(i for i, kind in enumerate(kinds) if kind == "List[List[Tensor]]")
    is_convolution = "convolution" in func._schema.name

    def unwrap(args: Args, kwargs: Kwargs) -> tuple[list[Any], Kwargs, SimTensor | None]:
        inner = list(args)
        count = len(inner)
        sim = host = None
        for i in single:
            if i >= count:
                break
            arg = inner[i]
            if type(arg) is SimTensor:
                if sim is None:
                    sim = arg
                inner[i] = arg._inner
            elif isinstance(arg, Tensor) and host is None and arg.dim():
                host = arg
        for i in listed:
            if i >= count:
                break
            parts = []
            for arg in inner[i]:
                if type(arg) is SimTensor:
                    if sim is None:
                        sim = arg
                    arg = arg._inner
                elif isinstance(arg, Tensor) and host is None and arg.dim():
                    host = arg
                parts.append(arg)
            inner[i] = parts
        for i in nested:  # collectives alone have them, and write to them in place
            if i < count:
                inner[i] = [[getattr(part, "_inner", part) for part in row] for row in inner[i]]
        if kwargs:
            plain = {}
            for name, arg in kwargs.items():
                if type(arg) is SimTensor:
                    if sim is None:
                        sim = arg
                    arg = arg._inner
                elif isinstance(arg, Tensor) and host is None and arg.dim():
                    host = arg
                plain[name] = arg
            kwargs = plain
        if host is not None and sim is not None:
            if is_convolution:
                raise RuntimeError(
                    f"Input type ({args[0].type()}) and weight type ({args[1].type()}) should be "
                    "the same"
                )
            in_order = (sim, host) if _comes_first(sim, args) else (host, sim)
            raise mixed_devices(*in_order)
        return inner, kwargs, sim

    return unwrap


def _comes_first(sim: SimTensor, args: Args) -> bool:
    for arg in args:
        for part in arg if isinstance(arg, (list, tuple)) else (arg,):
            if isinstance(part, Tensor) and part.dim():
                return part is sim
    return True


@functools.cache
def takes_one_tensor(func: Any) -> bool:
    """Whether an operation's first argument is its only tensor."""
    kinds = ["Tensor" in str(argument.type) for argument in func._schema.arguments]
    return kinds[:1] == [True] and not any(kinds[1:])


def _fresh(accelerator: Accelerator, func: Any) -> Rule:
    ledger = accelerator.ledger
    op = in_float32(func)
    unwrap = unwrapper(func)
    record = recorder(ledger, func)
    host = ledger.host

    def finish(
        out: Any, sim: SimTensor, inner: Any, plain: Kwargs, args: Args, kwargs: Kwargs
    ) -> Any:
        if isinstance(out, Tensor):
            if is_alias_of(out, sim._inner):
                return wrap(out, sim._block)
            result: Any = wrap(out, ledger.allocate(out.nbytes))
        elif isinstance(out, (tuple, list)):
            result = type(out)([_own(ledger, part) for part in out])
        else:
            result = out
        record(inner, plain, out, args, kwargs, result)
        return result

    def rule(args: Args, kwargs: Kwargs) -> Any:
        inner, plain, sim = unwrap(args, kwargs)
        if sim is None:
            return host.run(func, op, args, kwargs)
        return finish(op(*inner, **plain), sim, inner, plain, args, kwargs)

    def rule_of_one(args: Args, kwargs: Kwargs) -> Any:
        if not args or type(args[0]) is not SimTensor:
            return rule(args, kwargs)
        sim = args[0]
        inner = (sim._inner, *args[1:])
        return finish(op(*inner, **kwargs), sim, inner, kwargs, args, kwargs)

    return rule_of_one if takes_one_tensor(func) else rule


def _view(func: Any) -> Rule:
    op = func._op
    unwrap = unwrapper(func)
    alone = takes_one_tensor(func)
    inferring = torch.is_inference_mode_enabled

    def look(out: Any, block: Block) -> Any:
        if isinstance(out, Tensor):
            return wrap(out, block)
        return type(out)([wrap(part, block) for part in out])

    def finish(out: Any, sim: SimTensor) -> Any:
        if inferring() and not sim.is_inference():
            # A view of an ordinary tensor stays ordinary in inference mode, as PyTorch has it.
            with torch._C._InferenceMode(False):
                return look(out, sim._block)
        return look(out, sim._block)

    def rule(args: Args, kwargs: Kwargs) -> Any:
        if alone and args and type(args[0]) is SimTensor:
            return finish(op(args[0]._inner, *args[1:], **kwargs), args[0])
        inner, plain, sim = unwrap(args, kwargs)
        if sim is None:
            return op(*args, **kwargs)
        return finish(op(*inner, **plain), sim)

    return rule


def _writing(accelerator: Accelerator, func: Any) -> Rule:
    ledger = accelerator.ledger
    op = in_float32(func)
    unwrap = unwrapper(func)
    record = recorder(ledger, func)
    host = ledger.host
    schema = func._schema
    written = [
        (i, argument.name)
        for i, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    sets = {name: set(schema.arguments[i].alias_info.before_set) for i, name in written}
    returned = [
        next(
            (
                place
                for place in written
                if result.alias_info is not None
                and sets[place[1]] & set(result.alias_info.before_set)
            ),
            None,
        )
        for result in schema.returns
    ]
    may_reshape = schema.overload_name.endswith("out") or any(
        schema.name == f"aten::{name}" for name in RESHAPING
    )
    simple = returned == [(0, schema.arguments[0].name)] == written and not may_reshape

    def argument(place: tuple[int, str], args: Args, kwargs: Kwargs) -> Any:
        position, name = place
        return args[position] if position < len(args) else kwargs.get(name)

    def rule(args: Args, kwargs: Kwargs) -> Any:
        inner, plain, sim = unwrap(args, kwargs)
        if sim is None:
            return host.run(func, op, args, kwargs)
        if simple:
            target = args[0]
            if type(target) is not SimTensor:
                raise mixed_devices(target, sim)
            out = op(*inner, **plain)
            if target._block.source is not None:
                note_write(target)
            record(inner, plain, out, args, kwargs, target)
            return target
        out = op(*inner, **plain)
        for place in written:
            target = argument(place, args, kwargs)
            for tensor in target if isinstance(target, (list, tuple)) else (target,):
                if type(tensor) is SimTensor:
                    note_write(tensor)
                    if may_reshape:
                        refresh(ledger, tensor)
        results = [
            _own(ledger, part) if place is None else argument(place, args, kwargs)
            for place, part in zip(returned, out if len(returned) > 1 else (out,), strict=False)
        ]
        record(inner, plain, out, args, kwargs, results)
        return results[0] if len(results) == 1 else (tuple(results) or None)

    return rule


def _own(ledger: Ledger, part: Any) -> Any:
    return wrap(part, ledger.allocate(part.nbytes)) if isinstance(part, Tensor) else part


def note_write(tensor: SimTensor) -> None:
    """Move the version of the parameter on the host whose storage was written, if it is one's."""
    source = tensor._block.source
    if source is not None and not source.is_inference():
        torch.autograd.graph.increment_version(source)


def refresh(ledger: Ledger, tensor: SimTensor) -> None:
    """Let a tensor follow its inner one, which was given another shape or storage."""
    inner = tensor._inner
    if (tensor.shape, tensor.stride(), tensor.storage_offset()) != (
        inner.shape,
        inner.stride(),
        inner.storage_offset(),
    ):
        ledger.resize(tensor._block, inner.untyped_storage().nbytes())
        become(tensor, inner, tensor._block)


def _creating(accelerator: Accelerator, func: Any) -> Rule:
    ledger = accelerator.ledger
    op = func._op
    unwrap = unwrapper(func)
    by_storage = "empty_strided" in func._schema.name
    fills = not func._schema.name.startswith(("aten::empty", "aten::new_empty"))
    record = recorder(ledger, func)
    host = ledger.host

    def rule(args: Args, kwargs: Kwargs) -> Any:
        inner, plain, sim = unwrap(args, kwargs)
        device = plain.get("device")
        if plain.pop("pin_memory", None) and device == HOST:
            out = op(*inner, **plain)
            host.register(out, pinned=True)
            return out
        if device is None:
            on_device = sim is not None
        else:
            on_device = is_accelerator(device)
            if on_device:
                plain["device"] = HOST
        out = op(*inner, **plain)
        if out.device != HOST:  # shapes alone
            return out
        if not on_device:
            host.register(out)
            if fills:
                host.first_touched(out, out.nbytes, shared=True)
            return out
        nbytes = out.untyped_storage().nbytes() if by_storage else out.nbytes
        result = wrap(out, ledger.allocate(nbytes))
        record((), {}, out, args, kwargs, result)
        return result

    return rule


DeviceError: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)
"""What torch raises for a device that is not there: before 2.8 a plain ``RuntimeError``."""


def is_accelerator(device: torch.device) -> bool:
    """Whether a device is the simulated one.

    Raises:
        DeviceError: for a CUDA device other than the first, as where there is one GPU, and the
            process's own.
    """
    if device.type != "cuda":
        return False
    if device.index and device.index != ORDINAL.get():
        raise DeviceError("CUDA error: invalid device ordinal")
    return True


def _composed(accelerator: Accelerator, func: Any, takes_device: bool) -> Rule:
    op = func._op

    def rule(args: Args, kwargs: Kwargs) -> Any:
        if not takes_device and not any_on_device(args, kwargs):
            return op(*args, **kwargs)
        return compose(accelerator, func, args, kwargs)

    return rule


def any_on_device(args: Args, kwargs: Kwargs) -> bool:
    """Whether any argument is a tensor on the device."""
    for arg in (*args, *kwargs.values()):
        if type(arg) is SimTensor:
            return True
        if type(arg) in (list, tuple) and any(type(part) is SimTensor for part in arg):
            return True
    return False
