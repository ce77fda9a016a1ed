"""Records the calls that reach a VAE's coders while a hook is on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import Tensor, nn

from vae_compat.contracts.coders import CoderCall


class Recorder:
    """Listens at the coders.

    A call of the coder itself is recorded as ``original=False`` where something has taken the
    place of its forward, on the coder or on its class, and a call of the original forward, by
    whomever, as ``original=True``.
    """

    def __init__(self, coders: Mapping[str, nn.Module]) -> None:
        self.calls: list[CoderCall] = []
        self.originals: dict[str, Callable[..., Any]] = {}
        """The forwards that coders had before, wrapped so that their calls are recorded."""
        self._coders = coders
        self._before = {name: vars(coder).get("forward") for name, coder in coders.items()}
        self._signatures: dict[str, inspect.Signature | None] = {}
        for name, coder in coders.items():
            self._signatures[name] = _signature(coder.forward)
            self.originals[name] = self._listening(name, coder)
        self._handles = [
            coder.register_forward_pre_hook(self._at_the_door(name), with_kwargs=True)
            for name, coder in coders.items()
        ]

    def listen_to_forward(self) -> None:
        """Let ``coder.forward`` be the recorded original."""
        for name, coder in self._coders.items():
            set_plainly(coder, "forward", self.originals[name])

    def close(self) -> None:
        """Stop recording. A forward that other code has installed stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for name, coder in self._coders.items():
            if vars(coder).get("forward") is self.originals[name]:
                del vars(coder)["forward"]
                if self._before[name] is not None:
                    set_plainly(coder, "forward", self._before[name])

    def _at_the_door(self, name: str) -> Callable[..., None]:
        def record(coder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            forward = vars(coder).get("forward")
            if forward is not self.originals[name]:  # or it records the call itself
                self._add(name, forward is self._before[name], args, kwargs)

        return record

    def _listening(self, name: str, coder: nn.Module) -> Callable[..., Any]:
        forward: Callable[..., Any] = coder.forward
        plain = getattr(forward, "__func__", None)
        of_class = type(coder).forward
        inside = False  # what has taken its place in the class, and may call what was here before

        def record(_self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            replaced = plain is not None and type(coder).forward is not of_class and not inside
            self._add(name, not replaced, args, kwargs)
            if not replaced:
                return forward(*args, **kwargs)
            inside = True
            try:
                return type(coder).forward(coder, *args, **kwargs)
            finally:
                inside = False

        # For hooks that fall back where a coder's forward is not the one of its class.
        record.only_listens = plain is of_class  # type: ignore[attr-defined]
        if (
            plain is not None and getattr(forward, "__self__", None) is coder
        ):  # a method again, with the signature of the old one
            return MethodType(functools.wraps(plain)(record), coder)

        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            return record(coder, *args, **kwargs)

        return call

    def _add(
        self, name: str, original: bool, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        x = next(iter((*args, *kwargs.values())), None)
        named = _named(self._signatures[name], args, kwargs)
        self.calls.append(CoderCall(name, original, tuple(getattr(x, "shape", ())), named))


def set_plainly(module: nn.Module, name: str, value: object) -> None:
    """Set an instance attribute past ``nn.Module.__setattr__``.

    Which would register a hook that is itself a module as a submodule: it would then not be found
    as ``forward`` (the class has one), and would show in ``state_dict``.
    """
    vars(module)[name] = value


def describe(value: object) -> str:
    """An argument in a few characters: plain values as they are, containers by their length."""
    if isinstance(value, Tensor):
        return "Tensor"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, (list, tuple)):
        if len(value) <= 4 and all(isinstance(item, int) for item in value):
            return repr(value)
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _named(
    signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    names = [] if signature is None else [*signature.parameters]
    named = {}
    for position, value in enumerate(args[1:], start=1):
        name = names[position] if position < len(names) else f"argument {position}"
        named[name] = describe(value)
    rest = list(kwargs.items())[0 if args else 1 :]
    return named | {name: describe(value) for name, value in rest}


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
