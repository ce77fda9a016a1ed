"""Finds what a hook changes in a VAE, by comparing before and after, and restores it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.device.tensor import SimTensor

_NESTING = 4
"""Depth to which containers are compared."""


@dataclass(frozen=True)
class Change:
    """One difference, named by its place. Two are equal if place and attribute are."""

    path: str
    """Module path, ``""`` for the VAE itself, or ``class GroupNorm``."""
    attribute: str
    what: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    def __str__(self) -> str:
        return f"{'.'.join(filter(None, self._place))} {self.what}"

    @property
    def _place(self) -> tuple[str, str]:
        return (self.path, self.attribute)


_WITHOUT_PARTS = frozenset({bool, int, float, str, type(None), FunctionType, MethodType})


@dataclass(slots=True)
class _Image:
    """A saved value: the object, and for containers and tensors their changeable content.

    A VAE has thousands of them, and snapshots are taken before and after every call.
    """

    value: Any
    inside: Any = None

    @classmethod
    def of(cls, value: Any, depth: int = _NESTING) -> _Image:
        if type(value) in _WITHOUT_PARTS:
            return cls(value)
        if isinstance(value, Tensor):
            return cls(value, _tensor_facts(value))
        if depth == 0:
            return cls(value)
        if isinstance(value, dict):
            return cls(value, {key: cls.of(item, depth - 1) for key, item in value.items()})
        if isinstance(value, tuple) and _WITHOUT_PARTS.issuperset(map(type, value)):
            return cls(value)
        if isinstance(value, (list, tuple)):
            return cls(value, [cls.of(item, depth - 1) for item in value])
        if isinstance(value, set):
            return cls(value, set(value))
        return cls(value)

    def is_still(self, now: Any) -> bool:
        """Whether it is the same object, which has no parts that could have changed."""
        return self.inside is None and self.value is now

    def difference(self, now: Any) -> str | None:
        """How the value has changed, in words, or ``None``."""
        old = self.value
        if self.is_still(now):
            return None
        if isinstance(old, Tensor):
            return _tensor_difference(old, self.inside, now)
        if isinstance(self.inside, dict):
            return None if isinstance(now, dict) and self._same_items(now) else "was changed"
        if isinstance(self.inside, list):
            same = type(now) is type(old) and len(now) == len(self.inside)
            pairs = zip(self.inside, now, strict=True) if same else ()
            same = same and all(image.difference(item) is None for image, item in pairs)
            return None if same else "was changed"
        if isinstance(self.inside, set):
            return None if isinstance(now, set) and now == self.inside else "was changed"
        if old is now or _equal(old, now):
            return None
        if isinstance(old, bool | int | float | str | None) and isinstance(now, type(old)):
            return f"was changed from {old!r} to {now!r}"
        return "was changed" if isinstance(old, tuple) else "was replaced"

    def _same_items(self, now: dict[Any, Any]) -> bool:
        if not self.inside:
            return not now
        return now.keys() == self.inside.keys() and all(
            image.is_still(now[key]) or image.difference(now[key]) is None
            for key, image in self.inside.items()
        )

    def restored(self) -> Any:
        """The old value, with its old content where that can be restored."""
        if self.difference(self.value) is None:
            return self.value
        if isinstance(self.inside, dict):
            if type(self.value) not in (dict, OrderedDict):
                raise TypeError(f"a {type(self.value).__name__} cannot be refilled")
            self.value.clear()
            self.value.update({key: image.restored() for key, image in self.inside.items()})
        elif isinstance(self.value, list):
            self.value[:] = [image.restored() for image in self.inside]
        elif isinstance(self.inside, set):
            self.value.clear()
            self.value.update(self.inside)
        elif isinstance(self.value, Tensor):
            _restore_tensor(self.value, self.inside)
        return self.value


class _TensorFacts(NamedTuple):
    version: int | None
    device: torch.device
    dtype: torch.dtype
    requires_grad: bool
    has_grad: bool
    sample: tuple[Any, ...]
    """A few elements, where reading them costs nothing and is no transfer: on the plain CPU."""


class Snapshot:
    """The state of a VAE's modules at one moment.

    Weights are not copied: an in-place change is seen by the tensor's version and, since a move
    or a cast starts a version anew, by a sample of its elements. It cannot be put back.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules
        self._images = {
            path: {name: _Image.of(value) for name, value in vars(module).items()}
            for path, module in modules.items()
        }
        self._classes = _class_functions(modules.values())

    def changes(self) -> tuple[Change, ...]:
        """Every difference between then and now."""
        found = [
            change
            for path, module in self._modules.items()
            for change in _module_changes(path, self._images[path], vars(module))
        ]
        for owner, then in self._classes.items():
            now = _functions(owner)
            place = f"class {owner.__name__}"
            found += [Change(place, *change) for change in _key_changes(then, now)]
        return tuple(found)

    def differences(self, expected: Collection[Change] = ()) -> tuple[str, ...]:
        """The differences in words, except the expected ones.

        What an untiled run leaves behind is found by ``changes()`` of a snapshot before it.
        """
        return tuple(str(change) for change in self.changes() if change not in expected)

    def restore(self) -> None:
        """Restore everything possible: what cannot be restored is still a difference."""
        for path, module in self._modules.items():
            now, images = vars(module), self._images[path]
            for name in now.keys() - images.keys():
                del now[name]
            for name, image in images.items():
                if image.inside is None:
                    now[name] = image.value
                    continue
                with suppress(TypeError, AttributeError, RuntimeError):  # seen again below
                    now[name] = image.restored()
        for owner, then in self._classes.items():
            now_functions = _functions(owner)
            for name in now_functions.keys() - then.keys():
                delattr(owner, name)
            for name, value in then.items():
                if now_functions.get(name) is not value:
                    setattr(owner, name, value)


def snapshot(vae: nn.Module, **further: nn.Module) -> Snapshot:
    """The state of a VAE now; ``further`` modules (by path) are those it may not hold itself."""
    modules: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()
    for prefix, root in {"": vae, **further}.items():
        modules.update(root.named_modules(seen, prefix))
    return Snapshot(modules)


def snapshot_of(view: LayoutVAE) -> Snapshot:
    """The state of a VAE and of both coders of a view of it."""
    return snapshot(view.vae, encoder=view.encoder, decoder=view.decoder)


def untiled_residue(view: LayoutVAE, case: Case) -> tuple[Change, ...]:
    """What a small untiled run of the case's direction leaves behind, taken away again.

    Wan VAEs, for instance, keep their lists of feature caches as attributes.
    """
    small = replace(case, height=8, width=8)
    weight = next(view.vae.parameters(), torch.empty(()))
    before = snapshot_of(view)
    with (
        suppress(Exception),
        torch.no_grad(),
    ):  # without an untiled run nothing is expected to be left behind
        view.run(
            case.direction, torch.zeros(small.input_shape, dtype=weight.dtype, device=weight.device)
        )
    changes = before.changes()
    before.restore()
    return changes


def _module_changes(path: str, then: dict[str, _Image], now: dict[str, Any]) -> Iterator[Change]:
    for name in [name for name in now if name not in then]:
        yield Change(path, name, "was added")
    for name, image in then.items():
        if name not in now:
            yield Change(path, name, "was removed")
        elif (what := image.difference(now[name])) is not None:
            if name in _REGISTRIES:
                yield from _registry_changes(path, name, image.inside, now[name])
            else:
                yield Change(path, name, what)


def _registry_changes(
    path: str, name: str, then: dict[Any, _Image], now: dict[Any, Any]
) -> Iterator[Change]:
    """Changes within one of the dictionaries in which a module keeps its parts."""
    word = _REGISTRIES[name]
    if "hook" in name:
        added, removed = len(now.keys() - then.keys()), len(then.keys() - now.keys())
        for count, what in ((added, "was left registered"), (removed, "was removed")):
            if count:
                yield Change(path, f"({word})", what)
        return
    for key in [key for key in now if key not in then]:
        yield Change(path, str(key), f"({word}) was added")
    for key, image in then.items():
        if key not in now:
            yield Change(path, str(key), f"({word}) was removed")
        elif (change := image.difference(now[key])) is not None:
            yield Change(path, str(key), f"({word}) {change}")


_REGISTRIES = {
    "_modules": "submodule",
    "_parameters": "parameter",
    "_buffers": "buffer",
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_state_dict_hooks": "state-dict hook",
    "_state_dict_pre_hooks": "state-dict pre-hook",
    "_load_state_dict_pre_hooks": "load-state-dict pre-hook",
    "_load_state_dict_post_hooks": "load-state-dict post-hook",
}


def _key_changes(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in [name for name in now if name not in then]:
        yield name, "was added"
    for name, value in then.items():
        if name not in now:
            yield name, "was removed"
        elif now[name] is not value:
            yield name, "was replaced"


def _class_functions(modules: Collection[nn.Module]) -> dict[type, dict[str, Any]]:
    owners = {owner for module in modules for owner in type(module).__mro__ if owner is not object}
    return {owner: _functions(owner) for owner in sorted(owners, key=lambda o: o.__qualname__)}


def _functions(owner: type) -> dict[str, Any]:
    kinds = (property, staticmethod, classmethod)
    return {n: v for n, v in vars(owner).items() if callable(v) or isinstance(v, kinds)}


def _tensor_facts(tensor: Tensor) -> _TensorFacts:
    with torch._C.DisableTorchFunction():  # or a device that is open looks at each of them
        return _TensorFacts(
            version=None if tensor.is_inference() else tensor._version,
            device=tensor.device,
            dtype=tensor.dtype,
            requires_grad=tensor.requires_grad,
            has_grad=tensor.is_leaf and tensor.grad is not None,
            sample=_sample(tensor),
        )


def _sample(tensor: Tensor, count: int = 8) -> tuple[Any, ...]:
    """Some of the numbers: writing through ``data`` or the storage changes no version."""
    if type(tensor) is SimTensor:
        tensor = tensor._inner  # beside the books: looking is no work of the hook's
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
    if not plain or tensor.layout is not torch.strided or not tensor.numel():
        return ()
    step = max(1, tensor.numel() // count)
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    read = torch.as_strided(tensor.detach(), (1 + (reach - 1) // step,), (step,))
    return tuple(map(str, read[: 2 * count].tolist()))


def _tensor_difference(old: Tensor, then: _TensorFacts, now: Any) -> str | None:
    if now is not old:
        return "was replaced"
    facts = _tensor_facts(old)
    if facts.device != then.device:
        return f"was moved from {then.device} to {facts.device}"
    if facts.dtype != then.dtype:
        return f"was cast from {then.dtype} to {facts.dtype}"
    if facts.requires_grad != then.requires_grad:
        return f"had requires_grad changed to {facts.requires_grad}"
    if facts.has_grad != then.has_grad:
        return "was given a gradient" if facts.has_grad else "lost its gradient"
    unchanged = (facts.version, facts.sample) == (then.version, then.sample)
    return None if unchanged else "was changed in place"


def _restore_tensor(tensor: Tensor, then: _TensorFacts) -> None:
    if (tensor.device, tensor.dtype) != (then.device, then.dtype):
        tensor.data = tensor.data.to(then.device, then.dtype)
    if tensor.requires_grad != then.requires_grad:
        tensor.requires_grad_(then.requires_grad)
    if not then.has_grad and tensor.is_leaf:
        tensor.grad = None


def _equal(old: Any, now: Any) -> bool:
    """Equality for plain values, rows of them and bound methods; all else is told by identity."""
    if type(old) is not type(now):
        return False
    if isinstance(old, tuple):
        return len(old) == len(now) and all(map(_equal, old, now))
    if isinstance(old, float) and math.isnan(old):
        return math.isnan(now)
    plain = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
    return (isinstance(old, plain) or hasattr(old, "__func__")) and bool(old == now)
