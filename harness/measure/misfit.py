"""Whether an exception says that a hook was written for coders of another layout."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple

from torch import nn

MODULES: Mapping[str, frozenset[str]] = {
    "diffusers": frozenset(
        {"mid_block", "up_blocks", "down_blocks", "conv_norm_out", "conv_act"}
        | {"resnets", "attentions", "upsamplers", "downsamplers"}
    ),
    "ldm": frozenset({"mid", "up", "down", "norm_out", "block_1", "attn_1", "block_2"}),
    "wan": frozenset({"middle", "upsamples", "downsamples", "head"}),
}
"""Names of modules that a layout alone has: diffusers' ``AutoencoderKL``, latent-diffusion's
``ldm/modules/diffusionmodules/model.py``, and Wan2.1's ``wan/modules/vae.py``."""
_OWNER = "torch.nn.modules.module"


class Missing(NamedTuple):
    """A module that was asked for in vain."""

    name: str
    asked: str
    """Layout whose coders have it."""
    given: str
    """Layout of the coder."""

    @property
    def words(self) -> str:
        """A question, or where it has an answer, that."""
        told = f"the hook asked for `{self.name}`, which `{self.given}` coders don't have"
        if {self.asked, self.given} == {"ldm", "wan"}:  # one layout for those who give it
            return f"{told}: they are what qwen and wan have for a hook of layout `ldm` or `wan`"
        return f"is its layout `{self.asked}`? {told}"


def misfit(error: BaseException) -> Missing | None:
    """The module of another layout that a coder was asked for; ``None`` where it is not that.

    Runs no code of the hook, whose modules may answer as they like.
    """
    frame = _innermost(error.__traceback__)
    if type(error) is not AttributeError or frame is None:
        return None
    code, told = frame.tb_frame.f_code, frame.tb_frame.f_locals
    if code.co_name != "__getattr__" or frame.tb_frame.f_globals.get("__name__") != _OWNER:
        return None
    owner, name = told.get("self"), told.get("name")
    if type(name) is not str or not issubclass(type(owner), nn.Module):
        return None
    children = object.__getattribute__(owner, "__dict__").get("_modules", {})
    given = _layout_of(children if type(children) is dict else {})
    asked = _layout_of({name: None})
    return Missing(name, asked, given) if asked and given and asked != given else None


def _layout_of(names: Mapping[str, object]) -> str | None:
    found = [layout for layout, known in MODULES.items() if not known.isdisjoint(names)]
    return found[0] if len(found) == 1 else None


def _innermost(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace
