"""Pictures that go on at their other side: convolutions with circular padding."""

from __future__ import annotations

from torch import nn

from .errors import UnknownCoderError
from .interpose import padding_of
from .modules import CONVOLUTIONS, expect, is_genuine


def sides_joined(module: nn.Module, conv: nn.Conv2d) -> tuple[bool, bool]:
    """Whether a convolution pads rows, and columns, with the other side of the plane.

    ``conv`` is the layer itself where ``module`` adapts one. Code that is not torch's own is asked
    by running it on a few zeros: nodes for seamless pictures replace ``_conv_forward``.
    """
    own = int(conv.padding[0]), int(conv.padding[1])
    if not any(own):
        return False, False
    layers = [each for each in module.modules() if isinstance(each, CONVOLUTIONS)]
    if all(is_genuine(each) and "_conv_forward" not in each.__dict__ for each in layers):
        modes = {each.padding_mode for each in layers if max(each.kernel_size) > 1}
        expect(len(modes) == 1, "pads in several ways at once", module)
        joined = modes == {"circular"}
        return joined and own[0] > 0, joined and own[1] > 0
    weight = conv.weight
    if weight.device.type == "meta":
        raise UnknownCoderError(f"{type(module).__name__}: its padding cannot be found out")
    sides = [int(each) + 1 for each in conv.kernel_size]
    x = weight.new_zeros((1, conv.in_channels, *sides))
    return padding_of(module, x, own)
