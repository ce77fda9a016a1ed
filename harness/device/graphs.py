"""CUDA graphs on the simulated accelerator: what is captured is run again, on the same memory.

A capture writes down every operation with its tensors; a replay runs each again and puts its
results where those of the capture lie. On a GPU nothing is computed while a graph is captured;
here it is, so code that wrongly
relies on numbers before the first replay goes unnoticed.
"""

# ruff: noqa: ARG002 - the signatures are those of torch.cuda
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from vae_compat.device.ledger import Block, Ledger
from vae_compat.device.tensor import SimTensor, is_alias_of, wrap

Rule = Callable[[Any, Any], Any]


class Capture:
    """The operations of one graph."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.steps: list[tuple[Rule, Any, Any, Any]] = []

    def add(self, rule: Rule, args: Any, kwargs: Any, result: Any) -> None:
        """Record an operation that has run; its tensors are kept without being accounted."""
        self.steps.append((rule, self._kept(args), self._kept(kwargs), self._kept(result)))

    def _kept(self, value: Any) -> Any:
        """Tensors on the same numbers whose memory is not accounted: the pool of the graph's."""
        if type(value) is SimTensor:
            known = getattr(value, "_twin", None)
            if known is None or known[0] is not self:
                twin = wrap(value._inner, Block(self.ledger, 0, value._block.source))
                known = value._twin = (self, twin)  # type: ignore[attr-defined]
            return known[1]
        if isinstance(value, dict):
            return {key: self._kept(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._kept(part) for part in value])
        return value

    def replay(self) -> None:
        """Run everything again."""
        with torch.no_grad(), self.ledger.unaccounted():
            for rule, args, kwargs, result in self.steps:
                _put_back(rule(args, kwargs), result)


def _put_back(new: Any, old: Any) -> None:
    if isinstance(old, (list, tuple)):
        for part, there in zip(new, old, strict=True):
            _put_back(part, there)
    elif type(old) is SimTensor and type(new) is SimTensor:
        _copy(new._inner, old._inner)
    elif isinstance(old, Tensor):
        _copy(new, old)


def _copy(new: Tensor, old: Tensor) -> None:
    if not is_alias_of(new, old):
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            old.copy_(new)


class CUDAGraph:
    """``torch.cuda.CUDAGraph``."""

    ledger: ClassVar[Ledger]

    def __init__(self, keep_graph: bool = False) -> None:
        self._capture: Capture | None = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Write down what runs from now on."""
        if self.ledger.capture is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self._capture = self.ledger.capture = Capture(self.ledger)

    def capture_end(self) -> None:
        """The graph is complete."""
        self.ledger.capture = None

    def replay(self) -> None:
        """Run it."""
        if self._capture is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        self._capture.replay()

    def reset(self) -> None:
        """Forget it."""
        self._capture = None

    def pool(self) -> tuple[int, int]:
        """There is one pool."""
        return (0, 0)

    def enable_debug_mode(self) -> None:
        """Nothing to do."""


class graph:  # noqa: N801 - the name is PyTorch's
    """``torch.cuda.graph(...)``: captures on a stream of its own."""

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: Any = None,
        stream: Any = None,
        capture_error_mode: str = "global",
    ) -> None:
        self.cuda_graph = cuda_graph
        self.stream = stream

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        if self.stream is not None:
            self.stream.__enter__()
        self.cuda_graph.capture_begin()

    def __exit__(self, *exc: object) -> None:
        self.cuda_graph.capture_end()
        if self.stream is not None:
            self.stream.__exit__(*exc)


def graph_answers(ledger: Ledger) -> dict[str, Any]:
    """Stand-ins for what ``torch.cuda`` has about graphs."""
    return {
        "CUDAGraph": type("CUDAGraph", (CUDAGraph,), {"ledger": ledger}),
        "graph": graph,
        "graph_pool_handle": lambda: (0, 0),
        "is_current_stream_capturing": lambda: ledger.capture is not None,
    }
