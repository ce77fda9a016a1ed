"""Scenes that a real GPU and the simulated one are both asked about, and what each says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.device import open_device
from vae_compat.device.cuda import CudaDevice
from vae_compat.device.estimate import estimate
from vae_compat.device.meter import Reading
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.layouts.base import View
from vae_compat.fixtures.vaes.building import unseeded
from vae_compat.subject.loading import load_hook
from vae_compat.subject.profile import load_embedded

Run = Callable[[Direction, Tensor], Tensor]
PutOn = Callable[[View], contextlib.AbstractContextManager[Run]]
"""Puts something on a VAE; inside, the function runs it."""

UNTILED = "untiled"
USUAL_TILE = 64
"""Latent pixels."""


@dataclass(frozen=True)
class Scene:
    """One call of a whole VAE, untiled or with a hook on."""

    family: str
    height: int
    """In latent pixels, as ``width`` and ``tile``."""
    width: int
    subject: str = UNTILED
    """``untiled``, or the name of an embedded profile."""
    direction: Direction = Direction.DECODE
    frames: int = 1
    tile: int = USUAL_TILE
    dtype: str = "bfloat16"
    scale: Scale = Scale.REAL
    channels_last: bool = False
    """Whether weights and input are laid out so."""

    @property
    def case(self) -> Case:
        """The same as hooks are given it."""
        return Case(
            family=self.family,
            scale=self.scale,
            layout=Layout.DIFFUSERS,
            direction=self.direction,
            mode=Mode.EXACT,
            height=self.height,
            width=self.width,
            tile=self.tile,
            frames=self.frames,
            dtype=self.dtype,
        )

    @property
    def name(self) -> str:
        """``sdxl decode 1024x1024 bfloat16 untiled``."""
        return f"{self.group} {self.subject}{self._way}"

    @property
    def group(self) -> str:
        """What its contenders have in common: ``sdxl decode 1024x1024 bfloat16``."""
        ratio = self.case.facts.ratio
        size = f"{self.height * ratio}x{self.width * ratio}"
        frames = f" {self.frames} frames" if self.frames > 1 else ""
        return f"{self.family} {self.direction} {size}{frames} {self.dtype}"

    @property
    def _way(self) -> str:
        tiles = "" if self.tile == USUAL_TILE else f" tiles of {self.tile * self.case.facts.ratio}"
        return f"{tiles}{' channels last' if self.channels_last else ''}"


@dataclass(frozen=True)
class Said:
    """What a device says of a scene; bytes are beyond what was live before. ``None``: not told."""

    peak: int | None
    """Of live bytes between operations: workspaces, which end with their operation, set aside."""
    peak_with_workspaces: int | None
    flops: int | None
    seconds: float | None
    """Measured, or estimated for the same GPU."""
    spread: float | None = None
    """Of the times, from the fastest to the slowest, as a share of their median."""


def _scenes() -> Iterator[Scene]:
    for subject in (UNTILED, "reference", "diffusers"):
        yield Scene("sdxl", 128, 128, subject)
        yield Scene("qwen", 128, 128, subject)
        yield Scene("wan21", 60, 104, subject, frames=5)
    for subject in (UNTILED, "reference"):
        yield Scene("sdxl", 128, 128, subject, Direction.ENCODE)
    yield Scene("sdxl", 128, 128, channels_last=True)
    yield Scene("qwen", 128, 128, "diffusers", tile=32)
    yield Scene("wan21", 60, 104, "diffusers", frames=5, tile=32)
    for family, side in (("flux", 256), ("sdxl", 256), ("sdxl", 512)):
        yield Scene(family, side, side)
    yield Scene("flux", 256, 256, "reference")
    yield Scene("sdxl", 256, 256, channels_last=True)
    yield Scene("sdxl", 256, 256, "diffusers", channels_last=True)


SCENES: Mapping[str, Scene] = {scene.name: scene for scene in _scenes()}
"""Sizes of everyday use, at which planes outweigh workspaces by far."""


def simulated(scene: Scene, gpu: str | None, *, channels_first_attention: bool = False) -> Said:
    """What the simulated accelerator counts, on shapes alone, with the time of a GPU that it knows.

    To be asked where no real GPU is in use: the simulated one takes its place.
    ``channels_first_attention``: see ``Recorded``.
    """
    reading = counted(scene, _subject(scene), channels_first_attention=channels_first_attention)
    before = reading.live_before or 0
    return Said(
        peak=_beyond(reading.peak_bytes, before),
        peak_with_workspaces=_beyond(reading.peak_with_workspaces, before),
        flops=reading.flops,
        seconds=None if gpu is None else estimate(reading, gpu).seconds,
    )


def counted(scene: Scene, put_on: PutOn, *, channels_first_attention: bool = False) -> Reading:
    """The meters of the simulated accelerator for a scene, on shapes alone."""
    with (
        FakeTensorMode(),
        open_device("sim") as device,
        _ready(scene, device, put_on, channels_first_attention) as run,
        device.metered() as reading,
    ):
        run()
    return reading


def measured(scene: Scene, device: CudaDevice, *, repeats: int = 3) -> Said:
    """What a real GPU says, once under meters and a few times by its own clock."""
    with device, _ready(scene, device, _subject(scene)) as run:
        run()  # what libraries allocate once is not the VAE's
        with device.metered() as reading, Between() as between:
            result = run()
        del result
        timing = device.timed(run, repeats=repeats)
    before = reading.live_before or 0
    return Said(
        peak=between.peak - before,
        peak_with_workspaces=_beyond(reading.peak_bytes, before),
        flops=reading.flops,
        seconds=timing.median,
        spread=timing.spread,
    )


class Between(TorchDispatchMode):
    """Notes how many bytes are live after each operation, when its workspaces are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, torch.cuda.memory_allocated())
        return result


def _beyond(peak: int | None, before: int) -> int | None:
    return None if peak is None else peak - before


@contextlib.contextmanager
def _ready(
    scene: Scene, device: Any, put_on: PutOn, channels_first_attention: bool = False
) -> Iterator[Callable[[], Tensor]]:
    """The VAE with its input on an open device: a function that runs it."""
    case, dtype = scene.case, getattr(torch, scene.dtype)
    facts = case.facts
    vae = unseeded(facts, facts.real if scene.scale is Scale.REAL else facts.mock, dtype)
    if scene.channels_last:
        _lay_out_channels_last(vae)
    if channels_first_attention:
        _keep_channels_first(vae)
    seen = view(vae, Layout.DIFFUSERS, facts)
    whole = nn.ModuleList([seen.vae, seen.encoder, seen.decoder])
    with torch.no_grad():
        device.place(whole)
        try:
            given = device.put(torch.zeros(case.input_shape, dtype=dtype))
            with put_on(seen) as run:
                yield lambda: run(scene.direction, given)
        finally:
            device.withdraw(whole)


def _lay_out_channels_last(vae: nn.Module) -> None:
    """What ``vae.to(memory_format=torch.channels_last)`` does, for tensors without data as well."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            # A copy: a kernel of one pixel has both layouts, and only its strides tell which.
            weight = torch.empty_like(module.weight, memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight.copy_(module.weight), requires_grad=False)


def _keep_channels_first(vae: nn.Module) -> None:
    """Let the middle attention give what it adds up in the layout of its input."""
    for module in vae.modules():
        if type(module).__name__ == "Attention":
            module.register_forward_hook(lambda _module, _given, result: result.contiguous())


def _subject(scene: Scene) -> PutOn:
    if scene.subject == UNTILED:
        return untiled
    hook = load_hook(load_embedded(scene.subject))
    return lambda seen: hook.put_on(seen, scene.case, expected=())


@contextlib.contextmanager
def untiled(seen: View) -> Iterator[Run]:
    """The VAE as it is."""
    yield seen.run
