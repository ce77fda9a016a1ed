"""Where a case runs and what is counted: simulated accelerator, CUDA device, plain CPU."""

from __future__ import annotations

from vae_compat import vocabulary
from vae_compat.device.meter import Convolution, Device, Reading
from vae_compat.errors import UsageError
from vae_compat.machine import CudaDescription

__all__ = [
    "Convolution",
    "Device",
    "Reading",
    "UsageError",
    "available_devices",
    "described_gpu",
    "open_device",
]

NAMES = tuple(map(str, vocabulary.Device))


def available_devices() -> tuple[str, ...]:
    """Names that ``open_device`` takes on this machine."""
    import torch

    return NAMES if torch.cuda.is_available() else ("sim", "cpu")


def described_gpu(name: str) -> CudaDescription | None:
    """The GPU of a run, with its switches as they stand while a case runs; none but for `cuda`."""
    if name != vocabulary.Device.CUDA:
        return None
    from vae_compat.device.cuda import CudaDevice

    with CudaDevice() as opened:
        return opened.describe()


def open_device(name: str, *, capacity: int | None = None) -> Device:
    """A device by its name: ``sim``, ``cuda`` or ``cpu``.

    ``capacity`` is in bytes; where it is exceeded, ``torch.OutOfMemoryError`` is raised.

    Raises:
        UsageError: for an unknown name, a CUDA device that is not there, or a capacity that the
            device cannot have.
    """
    if capacity is not None and capacity <= 0:
        raise UsageError(f"a device cannot have a capacity of {capacity} bytes: give more than 0")
    if name == "sim":
        from vae_compat.device.simulated import SimulatedDevice

        return SimulatedDevice(capacity)
    if name == "cuda":
        from vae_compat.device.cuda import CudaDevice

        return CudaDevice(capacity)
    if name == "cpu":
        from vae_compat.device.cpu import CpuDevice

        if capacity is not None:
            raise UsageError("the device 'cpu' has no capacity to set: use 'sim', or leave it out")
        return CpuDevice()
    raise UsageError(f"unknown device {name!r}: choose one of {', '.join(NAMES)}")
