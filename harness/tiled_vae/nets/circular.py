"""Seamless pictures: convolutions whose padding is circular."""

from __future__ import annotations

from torch import nn

from ..errors import UnknownCoderError
from .following import padding_of
from .modules import CONVOLUTIONS, expect, is_replaced


def circular_sides(module: nn.Module, conv: nn.Conv2d) -> tuple[bool, bool]:
    """Whether a convolution pads rows, and columns, circularly.

    ``conv`` is the layer itself where ``module`` adapts one. Nodes for seamless pictures set
    ``padding_mode``, or replace ``_conv_forward``: that is asked by running it on a few zeros. Of
    other code ``padding_mode`` is believed here, and held against what it does to each tile.
    """
    own = int(conv.padding[0]), int(conv.padding[1])
    if not any(own):
        return False, False
    layers = [each for each in module.modules() if isinstance(each, CONVOLUTIONS)]
    if not any(replaces_forward(each) for each in layers):
        modes = {each.padding_mode for each in layers if max(each.kernel_size) > 1}
        expect(len(modes) == 1, "pads in several ways at once", module)
        circular = modes == {"circular"}
        return circular and own[0] > 0, circular and own[1] > 0
    weight = conv.weight
    if weight.device.type == "meta":
        raise UnknownCoderError(f"{type(module).__name__}: its padding cannot be found out")
    sides = [int(each) + 1 for each in conv.kernel_size]
    return padding_of(module, weight.new_zeros((1, conv.in_channels, *sides)), own)


def replaces_forward(conv: nn.Module) -> bool:
    """Whether a convolution of its own has another way of padding than its class."""
    value = conv.__dict__.get("_conv_forward")
    return value is not None and is_replaced(conv, "_conv_forward", value)
