"""Scenarios that need no baseline: results of the hook that must be one, whatever it is.

There is no noise floor without a truth, so the hook runs on the float64 twin of the VAE where it
can: what is equal but for rounding is equal to 1e-13 there, and a real difference stands out. Each
run has a device of its own, on which the hook is put anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils import deterministic
from torch.utils._python_dispatch import TorchDispatchMode
from vae_compat.cases import Case, Direction, Mechanism, Mode, Scale, Scenario
from vae_compat.device import Device, Reading, open_device
from vae_compat.device.meter import largest_plane
from vae_compat.families import Family
from vae_compat.measure.failing import returned_kind
from vae_compat.measure.observation import Failure, LayoutVAE, Observed, Origin
from vae_compat.measure.placing import placed
from vae_compat.measure.run import Trial, attempt, kept
from vae_compat.measure.stage import Stage

SHARP = 1e-9
"""Largest difference, over the rms of the result, that rounding can make in float64: measured are
1e-14 to 1e-12."""
ROUNDING = 64.0
"""Units of rounding (eps) of a narrower dtype that two exact results may differ by, over the rms of
the result: an exact one is within two noise floors of the truth, and a floor is 2 to 10 units."""
LEAK = 1e-4
"""What GroupNorm that is kept blind to the picture still lets through (``fixtures.probes``)."""
ROOM = 1.1
"""Memory of an accelerator on which the hook must run, over what it took at the same size."""
REACH = {Mechanism.STUB: 0, Mechanism.HALO: 20}
"""Probes whose pixels depend on pixels near by, and how far in latent pixels at most: 18 in the
decoders of SD and Wan."""


@dataclass(frozen=True)
class Comparison:
    """Two results that should be one."""

    what: str
    """Whose they are: ``tiles of 8 and tiles of 16 latent pixels``."""
    apart: float
    """Largest difference over the rms of the first; infinite where they cannot be compared."""
    where: str
    """Index of the worst element, or why they cannot be compared."""
    bound: float
    """What rounding may make of it."""


@dataclass(frozen=True, kw_only=True)
class Related(Observed):
    """What came of runs that should give one result."""

    comparisons: tuple[Comparison, ...] = ()
    dtype: str = ""
    """The narrowest in which the hook computed."""
    empty: str = ""
    """Why the comparisons show nothing; empty where they do."""


@dataclass(frozen=True)
class Ran:
    """The results of one hook put on once, on the plain CPU, and its meters."""

    outputs: tuple[Tensor, ...]
    reading: Reading
    dtype: torch.dtype

    @property
    def output(self) -> Tensor:
        """That of the last call."""
        return self.outputs[-1]


class HookFailed(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook raised, or returned no tensor."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


Play = Callable[["Runs"], Related]


@dataclass
class Runs:
    """Makes the runs of one scenario in one dtype."""

    stage: Stage
    dtype: torch.dtype
    narrowest: torch.dtype = torch.float64
    beyond_repair: tuple[str, ...] = ()

    @property
    def case(self) -> Case:
        """The scenario's own."""
        return self.stage.case

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, in the dtype of the runs."""
        return self.stage.bench.make_input(case or self.case).to(self.dtype)

    def run(self, *xs: Tensor, case: Case | None = None, capacity: int | None = None) -> Ran:
        """Put the hook on and call it with each input in turn.

        Raises `HookFailed`.
        """
        case = replace(case or self.case, dtype=str(self.dtype).removeprefix("torch."))

        def act(run: Any) -> list[Tensor]:
            with _Narrowest() as mode:
                results = [run(case.direction, device.put(x)) for x in xs]
            self.narrowest = min(self.narrowest, mode.dtype, key=lambda dtype: dtype.itemsize)
            return results

        with self._open(case, capacity) as (device, view):
            stage = self.stage
            trial = attempt(case, stage.hook, view, device, stage.seconds, None, act)
            self.beyond_repair += trial.beyond_repair
            outputs = [_output(trial, result, device) for result in trial.result or [None]]
        return Ran(tuple(outputs), trial.reading, self.narrowest)

    def untiled(self, x: Tensor, *, case: Case | None = None, capacity: int | None = None) -> Ran:
        """The result without the hook. Raises ``torch.OutOfMemoryError`` beyond a capacity."""
        case = case or self.case
        with self._open(case, capacity) as (device, view):
            with device.metered() as reading:
                result = view.run(case.direction, device.put(x))
            return Ran((device.host(result),), reading, self.dtype)

    @contextmanager
    def _open(self, case: Case, capacity: int | None) -> Iterator[tuple[Device, LayoutVAE]]:
        plain = replace(case, dtype=self.case.dtype)
        wide = self.dtype is torch.float64
        view = self.stage.bench.twin(plain) if wide else self.stage.bench.view(plain)
        device = open_device(case.device, capacity=capacity)
        with torch.no_grad(), device, placed(view, device):
            yield device, view

    @property
    def bound(self) -> float:
        """What rounding may make of a difference, in the narrowest dtype that was seen."""
        wide = self.narrowest is torch.float64
        return SHARP if wide else ROUNDING * torch.finfo(self.narrowest).eps

    def related(self, *comparisons: Comparison, empty: str = "") -> Related:
        """What the checks are given."""
        return Related(
            case=self.case,
            promise=self.stage.promise,
            beyond_repair=self.beyond_repair,
            comparisons=comparisons,
            dtype=str(self.narrowest).removeprefix("torch."),
            empty=empty,
        )


def observing(play: Play, *, wide: bool = True) -> Callable[[Stage], Related]:
    """How a scenario is run: in float64 where it is ``wide``, else in the dtype of its case.

    Also in the latter where the hook refuses float64, which it need not know.
    """

    @functools.wraps(play)
    def observe(stage: Stage) -> Related:
        own: torch.dtype = getattr(torch, stage.case.dtype)
        failure = None
        for dtype in (torch.float64, own) if wide else (own,):
            try:
                return play(Runs(stage, dtype))
            except HookFailed as failed:
                failure = failed.failure
            if failure.hung:
                break
        return Related(case=stage.case, promise=stage.promise, failure=failure)

    return observe


def tile_size(runs: Runs) -> Related:
    """One input in tiles of two sizes."""
    x, others = runs.x(), _with_tiles(runs.case)
    first, second = runs.run(x), runs.run(x, case=others)
    same = first.reading.convolutions == second.reading.convolutions
    return runs.related(
        compared(_tiles(runs.case, others), first.output, second.output, runs.bound),
        empty="both tile sizes ran the same convolutions" if same else "",
    )


def oversize(runs: Runs) -> Related:
    """A plane that untiled cannot run, for want of memory, while the hook can."""
    case, x = runs.case, runs.x()
    others = _with_tiles(case)
    first, second = runs.run(x), runs.run(x, case=others)
    capacity = int(ROOM * (first.reading.peak_bytes or 0))
    try:
        runs.untiled(x, capacity=capacity)
        empty = f"untiled runs in the {capacity} bytes that the hook takes as well"
    except torch.OutOfMemoryError:
        empty = ""
    small = runs.run(x, capacity=capacity)
    return runs.related(
        compared(_tiles(case, others), first.output, second.output, runs.bound),
        compared("plenty of memory and little", first.output, small.output, runs.bound),
        empty=empty,
    )


def partition(runs: Runs) -> Related:
    """One input in the tiles of a grid and in those of a quadtree."""
    x, grid = runs.x(), replace(runs.case, mode=Mode.EXACT)
    first, second = runs.run(x, case=grid), runs.run(x)
    same = first.reading.convolutions == second.reading.convolutions
    return runs.related(
        compared("grid and quadtree", first.output, second.output, runs.bound),
        empty="grid and quadtree ran the same convolutions" if same else "",
    )


def batch_split(runs: Runs) -> Related:
    """A batch in one call, and each of its items by itself."""
    x = runs.x()
    whole = runs.run(x).output
    alone = [runs.run(item, case=replace(runs.case, batch=1)).output for item in torch.split(x, 1)]
    pairs = zip(torch.split(whole, 1), alone, strict=False)
    return runs.related(
        *(
            compared(f"item {number} in a batch and by itself", *pair, runs.bound)
            for number, pair in enumerate(pairs)
        ),
        empty="" if len(whole) == len(x) > 1 else f"{len(whole)} items came of {len(x)}",
    )


def repeat(runs: Runs) -> Related:
    """A call again, and a call after one with another input, on a hook that stays on."""
    x = runs.x()
    again, after = runs.run(x, x), runs.run(x.flip(-1), x)
    return runs.related(
        compared("the first call and the second", again.outputs[0], again.output, 0.0),
        compared("a call alone and after another input", again.outputs[0], after.output, 0.0),
    )


def poison(runs: Runs) -> Related:
    """Memory that the hook has not written to holds NaN, or what happens to be there."""
    x = runs.x()
    with uninitialised(filled=False):
        clean = runs.run(x)
    with uninitialised(filled=True):
        works = bool(torch.empty(8).isnan().all())
        foul = runs.run(x)
    return runs.related(
        compared("clean memory and memory full of NaN", clean.output, foul.output, 0.0),
        empty="" if works else "memory could not be filled with NaN",
    )


def shift(runs: Runs) -> Related:
    """Probes that are local: a picture moved by one latent pixel gives one moved as much."""
    comparisons, empty = [], ""
    for mechanism in REACH:
        if not is_local(runs.case.facts, mechanism):
            continue
        case = moving(runs.case, mechanism)
        here, there = moved(case, runs.x)
        first, second = runs.run(here, case=case), runs.run(there, case=case)
        bound = runs.bound if case.facts.norm == "rms" else max(LEAK, runs.bound)
        what = f"the {mechanism} probe and the same moved by one latent pixel"
        comparisons.append(compared(what, *in_common(case, first.output, second.output), bound))
        untiled = runs.untiled(here, case=case)
        ours, whole = (largest_plane(ran.reading.convolutions) for ran in (first, untiled))
        if math.prod(ours) >= math.prod(whole):
            empty = f"tiles did not run ({mechanism} probe)"
    return runs.related(*comparisons, empty=empty)


RELATIONS: Mapping[Scenario, Callable[[Stage], Related]] = MappingProxyType(
    {
        Scenario.TILE_SIZE: observing(tile_size),
        Scenario.OVERSIZE: observing(oversize),
        Scenario.PARTITION: observing(partition),
        Scenario.BATCH_SPLIT: observing(batch_split),
        Scenario.REPEAT: observing(repeat, wide=False),
        Scenario.POISON: observing(poison, wide=False),
        Scenario.SHIFT: observing(shift),
    }
)
"""How each relation is observed."""


def is_local(family: Family, mechanism: Mechanism) -> bool:
    """Whether the probe of a family depends on pixels near by only.

    That of the halo does not where there are GroupNorms: what they let through adds up.
    """
    return mechanism in REACH and (mechanism is Mechanism.STUB or family.norm == "rms")


@contextmanager
def uninitialised(*, filled: bool) -> Iterator[None]:
    """Let what ``torch.empty`` and its like return be full of NaN, on the host as on the device."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]


def compared(what: str, first: Tensor, second: Tensor, bound: float) -> Comparison:
    """How far two results are apart."""
    if first.shape != second.shape:
        shapes = " and ".join("x".join(map(str, each.shape)) for each in (first, second))
        return Comparison(what, float("inf"), f"shapes {shapes}", bound)
    away = (first.double() - second.double()).abs()
    if not bool(away.isfinite().all()):
        count = int((~away.isfinite()).sum())
        return Comparison(what, float("inf"), f"{count} NaN or infinite elements", bound)
    worst = float(away.max())
    rms = float(first.double().square().mean().sqrt())
    index = tuple(int(i) for i in torch.unravel_index(away.argmax(), away.shape))
    return Comparison(what, worst / rms if rms else worst and float("inf"), f"{index}", bound)


class _Narrowest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the narrowest floating dtype that operations return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor) and part.is_floating_point():
                self.dtype = min(self.dtype, part.dtype, key=lambda dtype: dtype.itemsize)
        return out


def _output(trial: Trial, result: Any, device: Device) -> Tensor:
    """A result of a trial on the plain CPU. Raises `HookFailed`."""
    one = Trial(result=result, failure=trial.failure)
    output, _ = kept(one, device)
    if one.failure is not None:
        raise HookFailed(one.failure)
    if output is None:
        told = f"returned {returned_kind(result)} where a tensor belongs"
        raise HookFailed(Failure("NoTensor", told, "", "", "run", Origin.HARNESS))
    return output


def _with_tiles(case: Case) -> Case:
    """The same with tiles twice as large."""
    return replace(case, tile=2 * case.tile)


def _tiles(*cases: Case) -> str:
    return " and ".join(f"tiles of {case.tile}" for case in cases) + " latent pixels"


def moving(case: Case, mechanism: Mechanism) -> Case:
    """A probe of the family on a plane as large as that of the case beyond its reach."""
    width = case.width + 2 * max(REACH[mechanism] - case.tile, 0)
    return replace(case, scale=Scale.PROBE, mechanism=mechanism, scenario=None, width=width)


def moved(case: Case, make_input: Callable[[Case], Tensor]) -> tuple[Tensor, Tensor]:
    """Two parts of one picture, the second a latent pixel further right, and down as well."""
    unit = case.facts.ratio if case.direction is Direction.ENCODE else 1
    rows, cols = _steps(case)
    larger = make_input(replace(case, height=case.height + rows, width=case.width + cols))
    there, here = _overlapping(larger, larger, rows * unit, cols * unit)
    return here.contiguous(), there.contiguous()


def in_common(case: Case, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """What two results have in common, without what feels the border of one of the planes."""
    unit = 1 if case.direction is Direction.ENCODE else case.facts.ratio
    rows, cols = (step * unit for step in _steps(case))
    here, there = _overlapping(first, second, rows, cols)
    assert case.mechanism is not None
    reach = REACH[case.mechanism] * unit
    inner = slice(reach, -reach or None)
    across, down = inner, inner if rows else slice(None)
    return here[..., down, across], there[..., down, across]


def _overlapping(first: Tensor, second: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """``first`` without its upper left border, ``second`` without its lower right one."""
    height, width = second.shape[-2:]
    return first[..., rows:, cols:], second[..., : height - rows, : width - cols]


def _steps(case: Case) -> tuple[int, int]:
    """Latent pixels by which a picture moves down and right; not down where no rows are left."""
    assert case.mechanism is not None
    return int(2 * REACH[case.mechanism] < case.height - 1), 1
