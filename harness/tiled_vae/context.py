"""Tiling for a whole VAE, as long as a context is open."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .errors import TilingError, UnknownCoderError
from .hook import VAEHook
from .progress import told
from .settings import bytes_of, check_sizes
from .translate import translate

logger = logging.getLogger(__name__)

LATENT, IMAGE = "decode", "encode"
"""The methods of a VAE, after which its coders are called ``decoder`` and ``encoder``."""

SWITCHES = ("use_tiling", "use_slicing")
"""A VAE's own tiling, which blends, and its cutting of batches."""

_lock = threading.RLock()


@contextmanager
def tiled(
    vae: Any,
    tile_size: int | None = None,
    *,
    encode: bool = True,
    decode: bool = True,
    fast: bool = False,
    color_fix: bool = False,
    **settings: Any,
) -> Iterator[tuple[VAEHook, ...]]:
    """Inside, ``vae.encode`` and ``vae.decode`` run tile by tile, with the same result.

    ``vae`` is a VAE, or something that holds one: a pipeline, ``DataParallel``, what
    ``torch.compile`` returns, a user interface's wrapper. ``tile_size`` is in image pixels, for
    both directions; with neither ``tile_size`` nor ``max_vram`` the hook is as fast as what is free
    on the device allows. ``settings`` are those of `VAEHook` (``min_tile_size`` in image pixels as
    well). A VAE's own tiling and slicing are off inside.
    Contexts of several threads do not mix; a thread without one takes part in the newest.

    The VAE is as before when the last context ends, however it ends; a copy made inside is not
    tiled. Raises `TilingError` for what is no VAE, for settings that cannot work, and for a VAE
    that the same thread has tiled already.
    """
    check_sizes(tile_size, settings.get("min_tile_size"))
    free = tile_size is None and bytes_of(settings.get("max_vram")) is None
    if free:
        tile_size = 512
        settings.setdefault("residency", "auto")
    holder = holder_of(vae)
    wanted = [name for name, asked in ((IMAGE, encode), (LATENT, decode)) if asked]
    options = {"fast_decoder": fast, "fast_encoder": fast, "color_fix": color_fix, **settings}
    entry = Entry(holder, tile_size, options, threading.get_ident(), free)
    opened: list[str] = []
    try:
        with _lock:
            for name in wanted:
                entry.open(name)
                opened.append(name)
        yield tuple(entry.hooks.values())
    finally:
        with _lock:
            for name in opened:
                entry.close(name)


@dataclass(eq=False)
class Entry:
    """One open context."""

    holder: Any
    tile_size: int | None
    options: dict[str, Any]
    thread: int
    free: bool
    """Whether nobody asked for a size of tiles or for a budget."""
    hooks: dict[nn.Module, VAEHook] = field(default_factory=dict)

    def open(self, name: str) -> None:
        """Tile one direction."""
        net = coder_of(self.holder, name)
        if net is None:
            logger.warning(
                "%s.%s runs untiled: there is no %sr that this hook knows",
                type(self.holder).__name__,
                name,
                name,
            )
            return
        self.put_on(net, name)
        if hasattr(self.holder, name):
            gate_of(self.holder, name).entries.append(self)

    def put_on(self, net: nn.Module, name: str) -> None:
        """Put a hook on a coder."""
        switch = net.__dict__.get("forward")
        if isinstance(switch, VAEHook):
            raise TilingError(f"this {type(net).__name__} is tiled already")
        if not isinstance(switch, Switch):
            switch = Switch(net)
        elif any(entry.thread == self.thread for entry in switch.entries):
            raise TilingError(f"this {type(net).__name__} is tiled already")
        hook = self.made(net, name)
        switch.enter(self)
        self.hooks[net] = hook

    def made(self, net: nn.Module, name: str) -> VAEHook:
        """The hook for a coder."""
        is_decoder = name == LATENT
        unit = ratio_of(net) if is_decoder else 1
        sizes: dict[str, int | None] = {"tile_size": None}
        if self.tile_size is not None:
            sizes["tile_size"] = max(self.tile_size // unit, 1)
        if self.options.get("min_tile_size") is not None:
            sizes["min_tile_size"] = max(self.options["min_tile_size"] // unit, 1)
        hook = VAEHook(net, is_decoder=is_decoder, **{**self.options, **sizes})
        hook.strict, hook.tile_is_default = True, self.free
        return hook

    def close(self, name: str) -> None:
        """Leave one direction as it was."""
        gate = self.holder.__dict__.get(name)
        if isinstance(gate, Gate) and self in gate.entries:
            gate.entries.remove(self)
            if not gate.entries:
                gate.take_off()
        for net, hook in list(self.hooks.items()):
            if hook.is_decoder == (name == LATENT):
                del self.hooks[net]
                switch = net.__dict__.get("forward")
                if isinstance(switch, Switch):
                    switch.leave(self)


class Switch:
    """Stands for a coder's forward: leads every thread to the hook of its own context."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.entries: list[Entry] = []
        self.before = {name: net.__dict__.get(name) for name in ("forward", "original_forward")}

    def enter(self, entry: Entry) -> None:
        """A context begins."""
        if not self.entries:
            self.net.__dict__["original_forward"] = self.net.forward
            self.net.__dict__["forward"] = self
        self.entries.append(entry)

    def leave(self, entry: Entry) -> None:
        """A context ends."""
        if entry in self.entries:
            self.entries.remove(entry)
        if not self.entries:
            for name, value in self.before.items():
                if value is None:
                    self.net.__dict__.pop(name, None)
                else:
                    self.net.__dict__[name] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the coder's own forward would return for the same arguments."""
        if torch.compiler.is_dynamo_compiling():
            return self.run_apart(*args, **kwargs)
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run by the hook of this thread's context."""
        entry = chosen(self.entries)
        if entry is None:
            return type(self.net).forward(self.net, *args, **kwargs)
        return entry.hooks[self.net](*args, **kwargs)

    run_apart = torch._disable_dynamo(run)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the coder is not tiled."""
        forward = self.before["forward"]
        if forward is None:
            forward = type(self.net).forward.__get__(self.net)
        return copy.deepcopy(forward, memo)


class Gate:
    """Stands for a VAE's ``encode`` or ``decode``: sees to it that its coder is tiled."""

    def __init__(self, holder: Any, name: str) -> None:
        self.holder = holder
        self.name = name
        self.entries: list[Entry] = []
        self.original: Callable[..., Any] = getattr(holder, name)
        self.mine = name in holder.__dict__
        holder.__dict__[name] = self
        self.switched = [(each, True) for each in SWITCHES if holder.__dict__.get(each) is True]
        for each, _ in self.switched:
            setattr(holder, each, False)

    def take_off(self) -> None:
        """Leave the VAE as it was."""
        if self.mine:
            self.holder.__dict__[self.name] = self.original
        else:
            del self.holder.__dict__[self.name]
        for each, value in self.switched:
            setattr(self.holder, each, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Encode or decode."""
        if torch.compiler.is_dynamo_compiling():
            return self.run_apart(*args, **kwargs)
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Encode or decode, with this thread's hook on the coder."""
        entry = chosen(self.entries)
        hook = None if entry is None else self.hook_of(entry)
        inside = [each for each in SWITCHES if self.holder.__dict__.get(each) is True]
        for each in inside:
            setattr(self.holder, each, False)
        try:
            if hook is None or not hook.progress:
                return self.original(*args, **kwargs)
            x = next((each for each in (*args, *kwargs.values()) if hasattr(each, "shape")), None)
            with told(hook.progress, calls_of(self.holder, self.name, x)) as steady:
                hook.steady = steady
                try:
                    return self.original(*args, **kwargs)
                finally:
                    hook.steady = None
        finally:
            for each in inside:
                setattr(self.holder, each, True)

    def hook_of(self, entry: Entry) -> VAEHook | None:
        """The hook of a context on the coder that the VAE has now."""
        net = coder_of(self.holder, self.name)
        if net is None:
            return None
        with _lock:
            if net not in entry.hooks:
                entry.put_on(net, self.name)
        return entry.hooks[net]

    run_apart = torch._disable_dynamo(run)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the VAE is not tiled."""
        return copy.deepcopy(self.original, memo)


def gate_of(holder: Any, name: str) -> Gate:
    """The gate before a method of a VAE."""
    gate = holder.__dict__.get(name)
    return gate if isinstance(gate, Gate) else Gate(holder, name)


def chosen(entries: list[Entry]) -> Entry | None:
    """The context of this thread, or the newest."""
    mine = [entry for entry in entries if entry.thread == threading.get_ident()]
    found = mine or entries
    return found[-1] if found else None


def calls_of(holder: Any, name: str, x: Any) -> int:
    """How often a VAE calls its coder for ``x``: once, or for every chunk of a clip."""
    if getattr(x, "ndim", 0) != 5 or not hasattr(holder, "clear_cache"):
        return 1
    frames = int(x.shape[2])
    return frames if name == LATENT else 1 + (frames - 1) // 4


def holder_of(vae: Any) -> Any:
    """What has the coders: the VAE itself, inside of what it may be wrapped in."""
    waiting, seen = [vae], set[int]()
    while waiting:
        holder = waiting.pop(0)
        if holder is None or id(holder) in seen or len(seen) > 20:
            continue
        seen.add(id(holder))
        inside = [getattr(holder, "__dict__", {}), getattr(holder, "_modules", {})]
        wrapped = next((each["_orig_mod"] for each in inside if "_orig_mod" in each), None)
        if wrapped is None and isinstance(holder, nn.DataParallel):
            wrapped = holder.module
        if wrapped is not None:
            waiting.insert(0, wrapped)
            continue
        if any(coder_of(holder, name) is not None for name in (IMAGE, LATENT)):
            return holder
        names = ("vae", "first_stage_model", "model", "module")
        waiting += [getattr(holder, name, None) for name in names]
    raise TilingError(f"{type(vae).__name__} has neither an encoder nor a decoder to tile")


def coder_of(holder: Any, name: str) -> nn.Module | None:
    """The encoder or decoder of a VAE, unwrapped."""
    net = getattr(holder, f"{name}r", None)
    while isinstance(net, nn.Module):
        inside = net._modules.get("_orig_mod")
        if inside is None and isinstance(net, nn.DataParallel) and len(net.device_ids) < 2:
            inside = net.module
        if inside is None:
            return net
        net = inside
    return None


def ratio_of(decoder: nn.Module) -> int:
    """Image pixels per latent pixel of a decoder; 8 where it is not known inside out."""
    try:
        program = translate(decoder, is_decoder=True)
    except UnknownCoderError:
        return 8
    return round(program.levels[-1]) * program.patch
