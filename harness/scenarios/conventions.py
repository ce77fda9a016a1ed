"""Every convention in which programs call the bare coder, with the hook on and untiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import Tensor, nn

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import Convention, LayoutVAE, coder_of
from vae_compat.contracts.travelling import Pairs
from vae_compat.device import open_device
from vae_compat.measure.failing import kind_of
from vae_compat.measure.observation import ConventionResult, untold
from vae_compat.measure.placing import running
from vae_compat.scenarios.performed import ConventionCalled, Index
from vae_compat.scenarios.stage import Models, Player, Stage


@dataclass(frozen=True)
class Untiled:
    """What the bare coder gives."""

    calls: Annotated[dict[tuple[int, str], tuple[tuple[int, ...], Index]], Pairs()]
    """Shape and cache index after each call, by variant and convention."""


def strip_of(case: Case) -> Case:
    """The case on which conventions are tried: one tile high, and long enough to need tiles."""
    frames = 2 if case.facts.frame_axis else 1
    return replace(case, height=4, width=12, tile=4, batch=1, frames=frames)


def _strip(case: Case, models: Models) -> Tensor:
    """Cut from the input of a square plane."""
    x = models.make_input(replace(case, height=case.width))
    return x[..., : case.input_shape[-2], :].contiguous()


def perform_conventions(stage: Stage) -> tuple[ConventionCalled, ...]:
    """Call the hooked coder in every convention in which programs call it.

    Only a hook of kind ``forward`` takes the place of the coder's forward; for others the result
    is empty.
    """
    return tuple(_perform(stage)) if stage.promise.kind == "forward" else ()


def _perform(stage: Stage) -> Iterator[ConventionCalled]:
    case = strip_of(stage.case)
    x = _strip(case, stage.models)
    for variant, view in enumerate(stage.models.views(stage.case)):
        if not (conventions := _beside_plain(view, case)):
            continue
        with stage.play(view) as player:
            given = view.coder_input(case.direction, player.device.put(x))
            for convention in conventions:
                yield _called(player, case, variant, convention, given)


def _beside_plain(view: LayoutVAE, case: Case) -> tuple[Convention, ...]:
    """All conventions; none where there is a single one: every run calls the coder in that."""
    conventions = view.conventions(case.direction)
    return conventions if len(conventions) > 1 else ()


def _called(
    player: Player, case: Case, variant: int, convention: Convention, given: Tensor
) -> ConventionCalled:
    coder = _Watched(coder_of(player.view, case.direction))
    made = player.attempt(lambda _: convention.call(coder, given), case=case, metered=False)
    called = player.called(made, given)
    output = called.output
    return ConventionCalled(
        variant=variant,
        convention=convention.name,
        failure=called.missing(f"returned {called.returned}"),
        shape=None if output is None else tuple(output.shape),
        finite=output is not None and bool(output.isfinite().all()),
        index=tuple(coder.index),
    )


def untiled_conventions(case: Case, models: Models) -> Untiled:
    """What the bare coder gives in every convention."""
    case = strip_of(case)
    x, found = _strip(case, models), {}
    for variant, view in enumerate(models.views(case)):
        if not (conventions := _beside_plain(view, case)):
            continue
        with running(view, open_device(case.device)) as device:
            given = view.coder_input(case.direction, device.put(x))
            for convention in conventions:
                coder = _Watched(coder_of(view, case.direction))
                shape = tuple(convention.call(coder, given).shape)
                found[variant, convention.name] = (shape, tuple(coder.index))
    return Untiled(found)


def beside_untiled(
    called: Sequence[ConventionCalled], untiled: Untiled
) -> tuple[ConventionResult, ...]:
    """The hook's results beside those of the bare coder.

    A convention that the runner did not report is a failure of the hook, because nothing else can
    have changed the report. A convention that does not exist is ignored.
    """
    by_name = {(each.variant, each.convention): each for each in called}
    found = []
    for place, (shape, index) in untiled.calls.items():
        each = by_name.get(place)
        missing = untold("the runner told nothing of it")
        found.append(
            ConventionResult(
                convention=place[1],
                failure=missing if each is None else each.failure,
                shape=None if each is None else each.shape,
                expected_shape=shape,
                finite=each is not None and each.finite,
                index=() if each is None else each.index,
                expected_index=index,
            )
        )
    return tuple(found)


class _Watched(nn.Module):
    """Passes calls on to a coder and notes where they leave the cache index."""

    def __init__(self, coder: nn.Module) -> None:
        super().__init__()
        self.coder = coder
        self.index: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.coder(*args, **kwargs)
        index = kwargs.get("feat_idx", args[2] if len(args) > 2 else None)
        self.index.append(_told(index))
        return result


def _told(index: object) -> tuple[int, ...] | str | None:
    """The entries of an index list; for anything else the name of its type."""
    if index is None:
        return None
    if type(index) is list and all(type(entry) is int for entry in index):
        return tuple(index)
    return kind_of(index)
