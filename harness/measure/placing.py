"""A view of a VAE on a device, for as long as a case runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Given
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.device import Device
from vae_compat.subject.state import snapshot_of


@contextmanager
def running(view: LayoutVAE, device: Device) -> Iterator[Device]:
    """The device is entered inside and the view is on it, without gradients.

    What runs leave behind on the VAE is taken away: causal VAEs keep their caches, and what one run
    leaves is what the next one would find there.
    """
    with torch.no_grad(), device, placed(view, device):
        before = snapshot_of(view)
        try:
            yield device
        finally:
            before.restore()


@contextmanager
def placed(view: LayoutVAE, device: Device) -> Iterator[None]:
    """Everything of the view is on the device inside, and back where it was afterwards.

    Coders of a layout may be modules of the view's own that share the weights of the VAE, so all
    of them are placed in one go: what is shared stays shared.
    """
    whole = nn.ModuleList([view.vae, view.encoder, view.decoder])
    device.place(whole)
    try:
        yield
    finally:
        device.withdraw(whole)


def called_in(context: str) -> AbstractContextManager[None]:
    """The context in which a host calls hooks: ``inference_mode``, and ``no_grad`` otherwise."""
    return torch.inference_mode() if context == "inference_mode" else torch.no_grad()


@contextmanager
def ordinary() -> Iterator[None]:
    """What is made inside is no inference tensor, so that it can be changed in place anywhere."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def live_bytes(device: Device) -> int | None:
    """Bytes live on the device now; ``None`` where it cannot tell."""
    with device.metered() as now:
        pass
    return now.live_before


def arranged(x: Tensor, given: Given | None) -> Tensor:
    """The same values in another place in memory, where a case asks for that; ``B C [T] H W``."""
    match given:
        case Given.CHANNELS_LAST:
            clip = x.ndim == 5
            return x.contiguous(
                memory_format=torch.channels_last_3d if clip else torch.channels_last
            )
        case Given.SLICE:
            *outer, height, width = x.shape
            larger = x.new_full((*outer, height + 3, width + 5), torch.nan)
            window = larger[..., 1 : 1 + height, 2 : 2 + width]
            return window.copy_(x)
        case Given.EXPANDED:
            return x[:1].clone().expand_as(x)
        case _:
            return x
