"""Puts hooks on the coders of a VAE for a time, on behalf of several threads."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .errors import TilingError, UnknownCoderError
from .front_ends.translate import translate
from .guards import uncompiled
from .hook import VAEHook
from .nets.provenance import is_known_function
from .progress import told

logger = logging.getLogger(__name__)

ENCODE, DECODE = "encode", "decode"
"""Methods of a VAE, after which its coders are named ``encoder`` and ``decoder``."""

LOOPS = {ENCODE: "_encode", DECODE: "_decode"}
"""Methods of diffusers' video VAEs that pass a clip to the coder in chunks."""

REPLICATE = "_replicate_for_data_parallel"
"""The method by which ``DataParallel`` makes the replica of a module for another device."""

_lock = threading.RLock()


class Installed:
    """The hooks of one open context, and the thread that opened it."""

    def __init__(
        self,
        holder: Any,
        tile_size: int | None,
        settings: dict[str, Any],
        *,
        tile_is_default: bool = False,
    ) -> None:
        self.holder = holder
        self.tile_size = tile_size
        self.tile_is_default = tile_is_default
        self.settings = settings
        self.thread = threading.get_ident()
        self.hooks: dict[nn.Module, VAEHook] = {}

    def install(self, name: str) -> None:
        """Tile one direction of the VAE. Raises `TilingError` where this thread does already."""
        net = coder_of(self.holder, name)
        method = getattr(self.holder, name, None)
        if net is not None:
            self.hook_on(net, name)
        elif method is not None:
            logger.warning(
                "%s.%s runs untiled: there is no %sr", type(self.holder).__name__, name, name
            )
        if net is None or not callable(method) or not hasattr(self.holder, "__dict__"):
            return
        with _lock:
            door = self.holder.__dict__.get(name)
            door = door if isinstance(door, Door) else Door(self.holder, name)
            door.contexts.append(self)
            loop = self.holder.__dict__.get(LOOPS[name])
            if loop is None and is_known_function(getattr(type(self.holder), LOOPS[name], None)):
                loop = FrameLoop(self.holder, name)
            if isinstance(loop, FrameLoop):
                loop.contexts.append(self)

    def hook_on(self, net: nn.Module, name: str) -> VAEHook:
        """The hook on a coder, which is put there if there is none yet."""
        with _lock:
            if net in self.hooks:
                return self.hooks[net]
            switch = net.__dict__.get("forward")
            mine = isinstance(switch, Switch) and self.thread in [c.thread for c in switch.contexts]
            if mine or isinstance(switch, VAEHook):
                raise TilingError(f"this {type(net).__name__} is tiled already")
            hook = self.hooks[net] = self.made(net, name)
            if not isinstance(switch, Switch):
                switch = Switch(net, name)
            switch.contexts.append(self)
            return hook

    def made(self, net: nn.Module, name: str) -> VAEHook:
        """The hook for a coder, with sizes in pixels of its input."""
        unit = ratio_of(net) if name == DECODE else 1
        sizes = {"tile_size": self.tile_size, "min_tile_size": self.settings.get("min_tile_size")}
        scaled = {
            key: None if size is None else max(size // unit, 1) for key, size in sizes.items()
        }
        hook = VAEHook(net, is_decoder=name == DECODE, **{**self.settings, **scaled})
        hook.tile_is_default = self.tile_is_default
        return hook

    def remove(self) -> None:
        """Take everything off that this context has put on."""
        with _lock:
            for name in (ENCODE, DECODE):
                door = getattr(self.holder, "__dict__", {}).get(name)
                if isinstance(door, Door):
                    door.leave(self)
                loop = getattr(self.holder, "__dict__", {}).get(LOOPS[name])
                if isinstance(loop, FrameLoop):
                    loop.leave(self)
            for net in self.hooks:
                switch = net.__dict__.get("forward")
                if isinstance(switch, Switch):
                    switch.leave(self)
            self.hooks = {}


class Replacement:
    """Stands in the place of attributes of a coder or a VAE while contexts are open."""

    original: Callable[..., Any]
    """What was called before."""

    def __init__(self, owner: Any, put: Mapping[str, Any]) -> None:
        self.owner = owner
        self.contexts: list[Installed] = []
        self.before = {name: owner.__dict__.get(name) for name in put}
        owner.__dict__.update(put)
        if isinstance(owner, nn.Module):
            owner.__dict__.setdefault(REPLICATE, Replication(owner))

    def leave(self, context: Installed) -> bool:
        """A context ends; the last one puts back what was there. Whether it was the last."""
        if context in self.contexts:
            self.contexts.remove(context)
        if self.contexts:
            return False
        self.put_back(self.owner)
        if not any(isinstance(value, Replacement) for value in self.owner.__dict__.values()):
            self.owner.__dict__.pop(REPLICATE, None)
        return True

    def put_back(self, owner: Any) -> None:
        """Give the owner, or a replica of it, what was there before."""
        for name, value in self.before.items():
            if value is None:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = value

    def replicate(self, replica: nn.Module) -> None:
        """``DataParallel`` has copied the owner, this replacement included, for one call."""
        self.put_back(replica)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the owner is not tiled."""
        return copy.deepcopy(self.original, memo)


class Replication:
    """In the place of a module's `REPLICATE`: a replica calls nothing of what it is copied from."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner

    def __call__(self) -> nn.Module:
        """The replica, without weights as yet."""
        replica: nn.Module = getattr(type(self.owner), REPLICATE)(self.owner)
        replica.__dict__.pop(REPLICATE, None)
        for each in [*replica.__dict__.values()]:
            if isinstance(each, Replacement):
                each.replicate(replica)
        return replica

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the owner has its own method."""
        return getattr(type(self.owner), REPLICATE).__get__(copy.deepcopy(self.owner, memo))


class Switch(Replacement):
    """In the place of a coder's forward: leads each thread to the hook of its own context."""

    def __init__(self, net: nn.Module, name: str) -> None:
        self.name = name
        self.original = net.forward
        super().__init__(net, {"original_forward": self.original, "forward": self})

    @uncompiled
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run by the hook of this thread's context."""
        context = context_here(self.contexts)
        hook = None if context is None else context.hooks.get(self.owner)
        return (hook or self.original)(*args, **kwargs)

    def replicate(self, replica: nn.Module) -> None:
        """A replica has a hook of its own, which works on its device."""
        super().replicate(replica)
        context = context_here(self.contexts)
        if context is not None:
            replica.__dict__["forward"] = context.made(replica, self.name)


class Door(Replacement):
    """In the place of a VAE's ``encode`` or ``decode``: sees to it that its coder is tiled.

    Even if the coder is a new one, or the VAE's own tiling is switched on meanwhile.
    """

    def __init__(self, holder: Any, name: str) -> None:
        self.name = name
        self.original = getattr(holder, name)
        functools.update_wrapper(self, self.original, updated=())
        self.blends = blends(holder)
        if self.blends:
            holder.use_tiling = False
        super().__init__(holder, {name: self})

    def leave(self, context: Installed) -> bool:
        """A context ends; the last one leaves the VAE as it was."""
        last = super().leave(context)
        if last and self.blends:
            self.owner.use_tiling = True
        return last

    @uncompiled
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Encode or decode, with this thread's hook on the coder that the VAE has now."""
        context = context_here(self.contexts)
        net = coder_of(self.owner, self.name)
        if context is None or net is None:
            return self.original(*args, **kwargs)
        hook = context.hook_on(net, self.name)
        blending = blends(self.owner)
        if blending:
            self.owner.use_tiling = False
        try:
            x = next((each for each in (*args, *kwargs.values()) if hasattr(each, "shape")), None)
            with told(hook.progress, calls_of(self.owner, self.name, x)) as hook.over_calls:
                return self.original(*args, **kwargs)
        finally:
            hook.over_calls = None
            if blending:
                self.owner.use_tiling = True


class FrameLoop(Replacement):
    """In the place of a VAE's loop over a clip: lets the hook know how many frames will come."""

    def __init__(self, holder: Any, name: str) -> None:
        self.name = name
        self.original = getattr(holder, LOOPS[name])
        super().__init__(holder, {LOOPS[name]: self})

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What the loop gives for a clip ``B C T H W``."""
        context, net = context_here(self.contexts), coder_of(self.owner, self.name)
        hook = None if context is None or net is None else context.hooks.get(net)
        if hook is None or not hook.takes_clips(x):
            return self.original(x, *args, **kwargs)
        frames = x.shape[2]
        # An encoder is given one frame and then four at a time; those that are left over never.
        with hook.expecting(frames if hook.is_decoder else (frames - 1) // 4 * 4 + 1):
            return self.original(x, *args, **kwargs)


def context_here(contexts: list[Installed]) -> Installed | None:
    """The context of this thread, or else the newest."""
    mine = [context for context in contexts if context.thread == threading.get_ident()]
    return next(reversed(mine or contexts), None)


def blends(holder: Any) -> bool:
    """Whether a VAE's own tiling, which blends, is switched on."""
    return getattr(holder, "use_tiling", None) is True


def calls_of(holder: Any, name: str, x: Any) -> int:
    """How often a VAE of diffusers calls its coder for ``x``.

    Once for each chunk of a clip (one frame, then four image frames or one latent frame each), and
    all that for each item of a batch if it slices batches.
    """
    shape = tuple(getattr(x, "shape", ()))
    slices = int(shape[0]) if shape and getattr(holder, "use_slicing", False) is True else 1
    if len(shape) != 5 or not hasattr(holder, "clear_cache"):
        return slices
    chunks = int(shape[2]) if name == DECODE else 1 + (int(shape[2]) - 1) // 4
    return slices * chunks


def coder_of(holder: Any, name: str) -> nn.Module | None:
    """The encoder or decoder of a VAE, without what ``torch.compile`` or ``DataParallel`` wrap."""
    net = getattr(holder, f"{name}r", None)
    while isinstance(net, nn.Module):
        within = net._modules.get("_orig_mod")
        if within is None and isinstance(net, nn.DataParallel):
            within = net.module
        if within is None:
            return net
        net = within
    return None


def ratio_of(decoder: nn.Module) -> int:
    """Image pixels per latent pixel of a decoder; 8 where its layout is unknown."""
    try:
        program = translate(decoder, is_decoder=True)
    except UnknownCoderError:
        return 8
    return round(program.levels[-1]) * program.patch
