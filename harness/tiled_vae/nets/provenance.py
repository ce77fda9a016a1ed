"""Whose code a class runs: told by where its functions come from, never by a name alone.

A class is known if its forward is the one that a published module defines, with the file and the
qualified name that this module's code has, and if the functions that it calls by name are of the
same package, of torch, or of a few helpers. What is put in their place, on the class, in the module
or into torch, comes from elsewhere, however it is dressed up: ``functools.wraps`` copies names, but
neither code nor globals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch

PUBLISHED = frozenset(
    {
        # CompVis/stable-diffusion, Stability-AI/generative-models, and ComfyUI's descendant
        "ldm.modules.diffusionmodules.model",
        "sgm.modules.diffusionmodules.model",
        "comfy.ldm.modules.diffusionmodules.model",
        # and the web UIs': AUTOMATIC1111/stable-diffusion-webui, lllyasviel's Forge, reForge
        "modules.models.sd3.sd3_impls",
        "backend.nn.vae",
        "ldm_patched.ldm.modules.diffusionmodules.model",
        # huggingface/diffusers
        "diffusers.models.attention_processor",
        "diffusers.models.autoencoders.autoencoder_kl_qwenimage",
        "diffusers.models.autoencoders.autoencoder_kl_wan",
        "diffusers.models.autoencoders.vae",
        "diffusers.models.downsampling",
        "diffusers.models.resnet",
        "diffusers.models.unets.unet_2d_blocks",
        "diffusers.models.upsampling",
        # Wan-Video/Wan2.1 and Wan2.2, and ComfyUI's descendants
        "wan.modules.vae",
        "wan.modules.vae2_1",
        "wan.modules.vae2_2",
        "comfy.ldm.wan.vae",
        "comfy.ldm.wan.vae2_2",
    }
)
"""Modules whose classes were read and are what the steps of a program do."""

OURS = "vae_compat.fixtures.layouts."
"""This project's own renderings of the same coders."""

HELPERS = frozenset({"einops", "numpy", "xformers"})
"""Packages that published coders call, beside torch, the standard library and their own."""

SHARED = frozenset({("torch.nn.functional", "scaled_dot_product_attention")})
"""Functions that this hook calls under the same name: what replaces them is run, not undone."""

TORCH = str(Path(torch.__file__).parent)


class Link(NamedTuple):
    """A name that a function looks up, and what it found there."""

    namespace: Any
    name: str
    value: Any
    code: CodeType | None

    def holds(self) -> bool:
        """Whether the name still stands for the same code."""
        value = self.namespace.get(self.name)
        return value is self.value and code_of(value) is self.code


_intact: dict[tuple[FunctionType, type | None], list[Link]] = {}
"""Functions that were found intact, with everything that has to stay as it was."""


def role(kind: type) -> str | None:
    """The published class whose forward ``kind`` runs, by name; ``None`` for code not known."""
    owner, name = runs(kind)
    known = is_published(owner.__module__) and is_defined_by(owner, name)
    return owner.__name__ if known and is_intact(owner.__dict__[name], kind) else None


def is_known_function(function: Any) -> bool:
    """Whether a function is one of a published module, as that module defines it."""
    return (
        isinstance(function, FunctionType)
        and is_published(function.__module__)
        and is_own(function)
        and is_intact(function, None)
    )


def origin(kind: type) -> str:
    """Where the code that a class runs comes from, for a message."""
    owner, name = runs(kind)
    code = code_of(owner.__dict__.get(name))
    if not is_published(owner.__module__) or code is None:
        return f"is code of {owner.__module__}, which this hook does not know"
    if is_defined_by(owner, name):
        return f"calls something that is not as {owner.__module__.split('.')[0]} has it"
    return f"has a {name} that is replaced by {code.co_qualname} of {Path(code.co_filename).name}"


def runs(kind: type) -> tuple[type, str]:
    """Which class defines how ``kind`` is called, and under which name."""
    for name in ("forward", "__call__"):
        for owner in kind.__mro__:
            if name in owner.__dict__:
                return owner, name
    return kind, "__call__"


def is_published(module: str) -> bool:
    """Whether a module is one of those that were read."""
    return module in PUBLISHED or module.startswith(OURS)


def is_defined_by(owner: type, name: str) -> bool:
    """Whether a method of a class is the one in the source of the class."""
    function = plain(owner.__dict__.get(name))
    return (
        isinstance(function, FunctionType)
        and function.__module__ == owner.__module__
        and is_own(function, f"{owner.__qualname__}.{name}")
    )


def is_own(function: FunctionType, name: str | None = None) -> bool:
    """Whether the code of a function lies in its module's file, under its own qualified name."""
    code, module = function.__code__, function.__globals__
    return (
        module.get("__name__") == function.__module__
        and module.get("__file__") == code.co_filename
        and code.co_qualname == (name or function.__qualname__)
    )


def of_torch(function: Any, name: str | None = None) -> bool:
    """Whether a function is torch's own, and the one of that qualified name if one is given."""
    code = code_of(function)
    ours = code is not None and code.co_filename.startswith(TORCH)
    return ours and (name is None or (code is not None and code.co_qualname == name))


def is_intact(function: FunctionType, kind: type | None) -> bool:
    """Whether all that a function calls by name is as its modules define it.

    ``kind`` is the class whose methods it reaches through ``self``.
    """
    links = _intact.get((function, kind))
    if links is not None and all(link.holds() for link in links):
        return True
    found: list[Link] = []
    wanted, seen = [function], {function}
    while wanted:
        each = wanted.pop()
        for link, sound in looked_up(each, kind):
            if not sound:
                return False
            found.append(link)
            value = plain(link.value)
            read = isinstance(value, FunctionType) and is_published(value.__module__)
            if read and value not in seen:
                seen.add(value)
                wanted.append(value)
    _intact[function, kind] = found
    return True


def looked_up(function: FunctionType, kind: type | None) -> Iterator[tuple[Link, bool]]:
    """What a function may find under the names in its code, and whether that belongs there."""
    wanted = set(names(function.__code__))
    modules = {function.__module__: function.__globals__}
    waiting = [function.__module__]
    while waiting:
        module = waiting.pop()
        namespace = modules[module]
        for name in wanted & namespace.keys():
            value = namespace[name]
            if (module, name) in SHARED:
                continue
            if isinstance(value, FunctionType):
                yield Link(namespace, name, value, value.__code__), is_at_home(value, module)
            elif isinstance(value, ModuleType) and value.__name__ not in modules:
                modules[value.__name__] = vars(value)
                waiting.append(value.__name__)
    for owner in () if kind is None else kind.__mro__:
        if package(owner.__module__) in ("torch", "builtins"):
            continue
        for name in wanted:
            value = owner.__dict__.get(name)
            method = plain(value)
            sound = not isinstance(method, FunctionType) or is_at_home(method, function.__module__)
            yield Link(owner.__dict__, name, value, code_of(value)), sound


def is_at_home(function: FunctionType, module: str) -> bool:
    """Whether a function is one that a module's package may be expected to call.

    A decorated function has the code and the globals of its decorator: both have to be at home.
    """
    inner = getattr(function, "__wrapped__", None)
    if isinstance(inner, FunctionType) and not is_at_home(inner, module):
        return False
    if of_torch(function):
        return True
    home = package(str(function.__globals__.get("__name__")))
    if home in sys.stdlib_module_names:
        return True
    honest = function.__globals__.get("__file__") == function.__code__.co_filename
    return honest and (home == package(module) or home in HELPERS)


def package(module: str) -> str:
    """The package that a module belongs to; this project's layouts are one of their own."""
    return OURS if module.startswith(OURS) else module.split(".")[0]


def names(code: CodeType) -> Iterator[str]:
    """All names that some code looks up, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names(constant)


def plain(value: Any) -> Any:
    """A function, without what makes it static or a class method."""
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def code_of(value: Any) -> CodeType | None:
    """The code of a function; ``None`` for anything else."""
    code = getattr(plain(value), "__code__", None)
    return code if isinstance(code, CodeType) else None
