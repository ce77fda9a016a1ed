"""The untiled result of a case, and the truth behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.cases import Case
from harness.device import Device
from harness.measure.distance import noise
from harness.measure.observation import Baseline, LayoutVAE
from harness.measure.placing import live_bytes, placed
from harness.subject.state import snapshot


def measure_baseline(
    case: Case, view: LayoutVAE, truth_view: LayoutVAE, x: Tensor, device: Device
) -> Baseline:
    """Run the untiled VAE on the device under meters, and its float64 twin.

    ``x`` is on the plain CPU, in the dtype of the case; ``device`` is not entered yet. The twin
    runs on the plain CPU, on a CUDA device there.
    """
    with torch.no_grad():
        with device:
            with placed(view, device):
                weights = live_bytes(device)
                before = snapshot(view.vae, encoder=view.encoder, decoder=view.decoder)
                given = device.put(x)
                with device.metered() as reading:
                    result = view.run(case.direction, given)
                output = device.host(result)
                del result, given
                changes = before.changes()
                before.restore()
            if device.name == "cuda":
                with placed(truth_view, device):
                    truth = device.host(truth_view.run(case.direction, device.put(x.double())))
        if device.name != "cuda":
            truth = truth_view.run(case.direction, x.double())
    return Baseline(
        output=output.detach().clone(),
        truth=truth.detach().clone(),
        floor=noise(output, truth),
        reading=reading,
        weight_bytes=_weight_bytes(view.vae) if weights is None else weights,
        input_bytes=x.numel() * x.element_size(),
        leaves=tuple((change.path, change.attribute) for change in changes),
    )


def _weight_bytes(vae: nn.Module) -> int:
    """Bytes of the parameters and buffers, each storage once."""
    tensors = (*vae.parameters(), *vae.buffers())
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in held.values())
