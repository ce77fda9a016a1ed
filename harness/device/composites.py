"""Operations that are made of others: in inference mode alone they arrive in one piece."""

from __future__ import annotations

from typing import Any

import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode

_COMPOSITE = DispatchKey.CompositeImplicitAutograd


def is_composite(func: Any) -> bool:
    """Whether an operation is made of others."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE))


def compose(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """Run such an operation; each of those that it is made of comes through the mode."""
    torch._C._push_on_torch_dispatch_stack(mode)
    try:
        return func._op_dk(_COMPOSITE, *args, **kwargs)
    finally:
        torch._C._pop_torch_dispatch_stack(None)
