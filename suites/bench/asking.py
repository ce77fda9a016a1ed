"""Supplies and runners of a run that count what they are asked for."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_HOOKS = "--profile reference --profile diffusers --families sd --directions decode"
SMALL = f"{_HOOKS} --scale mock"
"""The run whose cost is counted: two hooks, so that there is something to share."""
QUICK = f"{_HOOKS} --modes exact --scale probe"
"""The run whose time is measured, several times."""


class CountedSupplies:
    """Counts VAEs that are built, and forwards of whole VAEs that the judge runs.

    Calls of a coder alone, as the call contract has them, are not forwards of a VAE.
    """

    def __init__(self, supplies: Any) -> None:
        self._supplies = supplies
        self.built = self.truths = self.untiled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._supplies, name)

    def build(self, case: Any) -> Any:
        """The VAE of a case."""
        self.built += 1
        return self._supplies.build(case)

    def views(self, *given: Any) -> tuple[Any, ...]:
        """The VAE in a layout."""
        return tuple(_View(view, self) for view in self._supplies.views(*given))


class _View:
    def __init__(self, view: Any, counts: CountedSupplies) -> None:
        self._view = view
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def run(self, direction: Any, x: Tensor) -> Tensor:
        """One forward."""
        if x.dtype == torch.float64:
            self._counts.truths += 1
        else:
            self._counts.untiled += 1
        return self._view.run(direction, x)


class CountedRunners:
    """Counts the cases that hooks are asked to perform; ends the runners at the end."""

    def __init__(self, runners: Any) -> None:
        self._runners = runners
        self.asked = 0

    def __enter__(self) -> CountedRunners:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runners.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runners, name)

    def perform(self, *given: Any) -> Any:
        """What a hook does of a case."""
        self.asked += 1
        return self._runners.perform(*given)
