"""The untiled result of a case, and the truth behind it."""

from __future__ import annotations

import gc
import time

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.device import Device
from vae_compat.measure.distance import noise
from vae_compat.measure.float64 import QuickFloat64
from vae_compat.measure.observation import Baseline
from vae_compat.measure.placing import live_bytes, running
from vae_compat.subject.state import snapshot


def measure_baseline(
    case: Case, view: LayoutVAE, truth: Tensor, x: Tensor, device: Device
) -> Baseline:
    """Run the untiled VAE on the device under meters, and measure its distance from the truth.

    ``x`` is on the plain CPU, in the dtype of the case; ``device`` is not entered yet.
    """
    with running(view, device):
        weights = live_bytes(device)
        before = snapshot(view.vae, encoder=view.encoder, decoder=view.decoder)
        given = device.put(x)
        started = time.process_time()
        with device.metered() as reading:
            result = view.run(case.direction, given)
        spent = time.process_time() - started
        output = device.host(result)
        del result, given
        changes = before.changes()
        before.put_back()
    return Baseline(
        output=output.detach().clone(),
        truth=truth,
        floor=noise(output, truth),
        reading=reading,
        weight_bytes=_weight_bytes(view.vae) if weights is None else weights,
        input_bytes=x.numel() * x.element_size(),
        cpu_seconds=spent,
        leaves=tuple((change.path, change.attribute) for change in changes),
    )


def measure_truth(case: Case, view: LayoutVAE, x: Tensor, device: Device) -> Tensor:
    """Run the float64 twin: on the CUDA device of the case if it has room, else on the plain CPU.

    float64 takes twice the memory of float32, and only float32 is sure to fit.
    """
    if device.name == "cuda":
        try:
            with running(view, device):
                result = view.run(case.direction, device.put(x.double()))
                return device.host(result).detach().clone()
        except torch.OutOfMemoryError:
            gc.collect()  # the memory that the exception held
    with torch.no_grad(), QuickFloat64():
        return view.run(case.direction, x.double()).detach().clone()


def _weight_bytes(vae: nn.Module) -> int:
    """Bytes of the parameters and buffers, each storage once."""
    tensors = (*vae.parameters(), *vae.buffers())
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in held.values())
