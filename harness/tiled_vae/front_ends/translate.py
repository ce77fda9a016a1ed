"""Turns a coder into a program, with the front end that knows its layout."""

from __future__ import annotations

from torch import nn

from ..errors import UnknownCoderError
from ..program.steps import Program
from . import image, video


def translate(net: nn.Module, is_decoder: bool, first_chunk: bool = False) -> Program:
    """The program of ``net``. Raises `UnknownCoderError` for any coder that is not fully known.

    Programs are cheap, so one is made for each call: a coder may be changed between calls.
    """
    try:
        if hasattr(net, "conv1") and hasattr(net, "middle") and hasattr(net, "head"):
            return video.original_program(net, is_decoder, first_chunk)
        if hasattr(net, "mid_block") and hasattr(net, "norm_out"):
            return video.diffusers_program(net, is_decoder, first_chunk)
        if hasattr(net, "mid_block") and hasattr(net, "conv_norm_out"):
            return image.diffusers_program(net, is_decoder)
        if hasattr(net, "mid") and hasattr(net, "norm_out"):
            return image.ldm_program(net, is_decoder)
    except (AttributeError, TypeError, ValueError) as error:
        raise UnknownCoderError(f"{type(net).__name__}: {error}") from error
    raise UnknownCoderError(f"{type(net).__name__} has no known layout")
