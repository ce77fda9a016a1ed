"""Scenarios that need no baseline: results of the hook that must be one, whatever it is.

There is no noise floor without a truth, so the hook runs on the float64 twin of the VAE where it
can: what is equal but for rounding is equal to 1e-13 there, and a real difference stands out. Each
run has a device of its own, on which the hook is put anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils import deterministic
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.cases import Case, Direction, Mechanism, Mode, Scale, Scenario
from vae_compat.device import Device, open_device
from vae_compat.device.meter import largest_plane
from vae_compat.families import Family
from vae_compat.measure.attempt import Attempt
from vae_compat.measure.bench import Bench
from vae_compat.measure.failing import returned_kind
from vae_compat.measure.observation import Failure, Observed, Origin, Promise, untold
from vae_compat.measure.performed import RelationPerformed, Run
from vae_compat.measure.placing import placed
from vae_compat.measure.plain import kept
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
MOVING = (Mechanism.STUB, Mechanism.HALO)
"""Probes whose pixels depend on pixels near by at most."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Related(Observed):
    """What came of runs that should give one result."""

    comparisons: tuple[Comparison, ...] = ()
    dtype: str = ""
    """The narrowest in which the hook computed."""
    empty: str = ""
    """Why the comparisons show nothing; empty where they do."""


# What the runner does ----------------------------------------------------------------------------


class HookFailed(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook raised, or returned no tensor."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass
class Runs:
    """Makes the runs of one scenario in one dtype."""

    stage: Stage
    dtype: torch.dtype
    narrowest: torch.dtype = torch.float64
    made: list[Run] = field(default_factory=list)
    empty: str = ""
    """Why they show nothing; empty where they do."""

    @property
    def case(self) -> Case:
        """The scenario's own."""
        return self.stage.case

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, in the dtype of the runs."""
        return self.stage.models.make_input(case or self.case).to(self.dtype)

    def run(self, *xs: Tensor, case: Case | None = None, capacity: int | None = None) -> Run:
        """Put the hook on and call it with each input in turn.

        Raises `HookFailed`.
        """
        case = replace(case or self.case, dtype=_named(self.dtype))

        def act(run: Any) -> list[Tensor]:
            with _Narrowest() as mode:
                results = [run(case.direction, device.put(x)) for x in xs]
            self.narrowest = min(self.narrowest, mode.dtype, key=lambda dtype: dtype.itemsize)
            return results

        plain = replace(case, dtype=self.case.dtype)
        views = self.stage.models.twins if self.dtype is torch.float64 else self.stage.models.views
        view, device = views(plain)[0], self.stage.device(capacity)
        with torch.no_grad(), device, placed(view, device):
            made = self.stage.attempt(view, device, act, case=case)
            outputs = [_output(made, result, device) for result in made.result or [None]]
        self.made.append(Run(tuple(outputs), made.reading, _named(self.narrowest)))
        return self.made[-1]


def perform_relation(stage: Stage) -> RelationPerformed:
    """Make the runs of a scenario: in float64 where it is ``wide``, else in the dtype of its case.

    Also in the latter where the hook refuses float64, which it need not know.
    """
    assert stage.case.scenario is not None
    relation = RELATIONS[stage.case.scenario]
    own: torch.dtype = getattr(torch, stage.case.dtype)
    failure = None
    for dtype in (torch.float64, own) if relation.wide else (own,):
        runs = Runs(stage, dtype)
        try:
            relation.play(runs)
            return RelationPerformed(runs=tuple(runs.made), dtype=_named(dtype), empty=runs.empty)
        except HookFailed as failed:
            failure = failed.failure
        if failure.hung:
            break
    return RelationPerformed(runs=(), dtype=_named(own), failure=failure)


def _play_tile_size(runs: Runs) -> None:
    x = runs.x()
    runs.run(x)
    runs.run(x, case=_with_tiles(runs.case))


def _play_oversize(runs: Runs) -> None:
    x = runs.x()
    first = runs.run(x)
    runs.run(x, case=_with_tiles(runs.case))
    runs.run(x, capacity=_capacity(first))


def _play_partition(runs: Runs) -> None:
    x = runs.x()
    runs.run(x, case=replace(runs.case, mode=Mode.EXACT))
    runs.run(x)


def _play_batch_split(runs: Runs) -> None:
    x = runs.x()
    runs.run(x)
    for item in torch.split(x, 1):
        runs.run(item, case=replace(runs.case, batch=1))


def _play_repeat(runs: Runs) -> None:
    x = runs.x()
    runs.run(x, x)
    runs.run(x.flip(-1), x)


def _play_poison(runs: Runs) -> None:
    x = runs.x()
    with uninitialised(filled=False):
        runs.run(x)
    with uninitialised(filled=True):
        works = bool(torch.empty(8).isnan().all())
        runs.run(x)
    runs.empty = "" if works else "memory could not be filled with NaN"


def _play_shift(runs: Runs) -> None:
    for case in moving_cases(runs.case):
        here, there = moved(case, runs.x)
        runs.run(here, case=case)
        runs.run(there, case=case)


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


def _output(made: Attempt, result: Any, device: Device) -> Tensor:
    """A result of an attempt on the plain CPU. Raises `HookFailed`."""
    output, _, unreadable = kept(result, device)
    failure = made.failure or unreadable
    if failure is not None:
        raise HookFailed(failure)
    if output is None:
        told = f"returned {returned_kind(result)} where a tensor belongs"
        raise HookFailed(Failure("NoTensor", told, "", "", "run", Origin.HARNESS))
    return output


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


# What the judge makes of it ----------------------------------------------------------------------


def examine_relation(
    case: Case, promise: Promise, performed: RelationPerformed, bench: Bench
) -> Related:
    """Hold the runs of a scenario against each other."""
    if performed.failure is not None:
        return Related(case=case, promise=promise, failure=performed.failure)
    assert case.scenario is not None
    relation = RELATIONS[case.scenario]
    results = Results(case, bench, performed)
    try:
        comparisons, empty = relation.compare(results)
    except _Missing:
        told = "the runner told nothing of some of the runs"
        failure = untold(told)
        return Related(case=case, promise=promise, failure=failure)
    return Related(
        case=case,
        promise=promise,
        comparisons=tuple(comparisons),
        dtype=performed.runs[-1].dtype,
        empty=performed.empty or empty,
    )


class _Missing(Exception):  # noqa: N818 (a fact about a runner)
    """A run, or a result of it, that the runner did not tell of."""


@dataclass
class Results:
    """The runs of one scenario, in the order in which they were made."""

    case: Case
    bench: Bench
    performed: RelationPerformed
    taken: int = 0

    def next(self, outputs: int = 1) -> Run:
        """The next run. Raises `_Missing` where there is none with so many results."""
        runs = self.performed.runs
        if self.taken >= len(runs) or len(runs[self.taken].outputs) != outputs:
            raise _Missing
        self.taken += 1
        return runs[self.taken - 1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the VAE."""
        wide = self.performed.dtype == "float64"
        return torch.float64 if wide else getattr(torch, self.case.dtype)

    @property
    def bound(self) -> float:
        """What rounding may make of a difference, in the narrowest dtype that was seen so far."""
        narrowest = self.performed.runs[max(self.taken - 1, 0)].dtype
        if narrowest not in FLOATS:
            raise _Missing
        wide = narrowest == "float64"
        return SHARP if wide else ROUNDING * torch.finfo(getattr(torch, narrowest)).eps

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, in the dtype of the runs."""
        return self.bench.make_input(case or self.case).to(self.dtype)

    def untiled(self, x: Tensor, *, case: Case | None = None, capacity: int | None = None) -> Run:
        """The result without the hook. Raises ``torch.OutOfMemoryError`` beyond a capacity."""
        case = case or self.case
        views = self.bench.twin if self.dtype is torch.float64 else self.bench.view
        view, device = views(case), open_device(case.device, capacity=capacity)
        with torch.no_grad(), device, placed(view, device):
            with device.metered() as reading:
                result = view.run(case.direction, device.put(x))
            return Run((device.host(result),), reading, _named(self.dtype))


Compared = tuple[list[Comparison], str]
"""Comparisons, and why they show nothing."""
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
"""In which a hook may compute."""


def _compare_tile_size(results: Results) -> Compared:
    first, second = results.next(), results.next()
    same = first.reading.convolutions == second.reading.convolutions
    what = _tiles(results.case, _with_tiles(results.case))
    found = compared(what, first.output, second.output, results.bound)
    return [found], "both tile sizes ran the same convolutions" if same else ""


def _compare_oversize(results: Results) -> Compared:
    case = results.case
    first, second, small = results.next(), results.next(), results.next()
    capacity = _capacity(first)
    try:
        results.untiled(results.x(), capacity=capacity)
        empty = f"untiled runs in the {capacity} bytes that the hook takes as well"
    except torch.OutOfMemoryError:
        empty = ""
    bound, what = results.bound, _tiles(case, _with_tiles(case))
    return [
        compared(what, first.output, second.output, bound),
        compared("plenty of memory and little", first.output, small.output, bound),
    ], empty


def _compare_partition(results: Results) -> Compared:
    first, second = results.next(), results.next()
    same = first.reading.convolutions == second.reading.convolutions
    found = compared("grid and quadtree", first.output, second.output, results.bound)
    return [found], "grid and quadtree ran the same convolutions" if same else ""


def _compare_batch_split(results: Results) -> Compared:
    whole = results.next().output
    count = results.case.batch
    alone = [results.next().output for _ in range(count)]
    pairs = zip(torch.split(whole, 1), alone, strict=False)
    found = [
        compared(f"item {number} in a batch and by itself", *pair, results.bound)
        for number, pair in enumerate(pairs)
    ]
    return found, "" if len(whole) == count > 1 else f"{len(whole)} items came of {count}"


def _compare_repeat(results: Results) -> Compared:
    again, after = results.next(2), results.next(2)
    return [
        compared("the first call and the second", again.outputs[0], again.output, 0.0),
        compared("a call alone and after another input", again.outputs[0], after.output, 0.0),
    ], ""


def _compare_poison(results: Results) -> Compared:
    clean, foul = results.next(), results.next()
    what = "clean memory and memory full of NaN"
    return [compared(what, clean.output, foul.output, 0.0)], ""


def _compare_shift(results: Results) -> Compared:
    found, empty = [], ""
    for case in moving_cases(results.case):
        here, _ = moved(case, results.x)
        first, second = results.next(), results.next()
        rounding = results.bound
        bound = rounding if case.facts.local_norms else max(LEAK, rounding)
        what = f"the {case.mechanism} probe and the same moved by one latent pixel"
        found.append(compared(what, *in_common(case, first.output, second.output), bound))
        untiled = results.untiled(here, case=case)
        ours, whole = (largest_plane(run.reading.convolutions) for run in (first, untiled))
        if math.prod(ours) >= math.prod(whole):
            empty = f"tiles did not run ({case.mechanism} probe)"
    return found, empty


@dataclass(frozen=True)
class Relation:
    """How a relation is played by the runner, and compared by the judge."""

    play: Callable[[Runs], None]
    compare: Callable[[Results], Compared]
    wide: bool = True
    """Whether it runs in float64 where the hook can."""


RELATIONS: Mapping[Scenario, Relation] = MappingProxyType(
    {
        Scenario.TILE_SIZE: Relation(_play_tile_size, _compare_tile_size),
        Scenario.OVERSIZE: Relation(_play_oversize, _compare_oversize),
        Scenario.PARTITION: Relation(_play_partition, _compare_partition),
        Scenario.BATCH_SPLIT: Relation(_play_batch_split, _compare_batch_split),
        Scenario.REPEAT: Relation(_play_repeat, _compare_repeat, wide=False),
        Scenario.POISON: Relation(_play_poison, _compare_poison, wide=False),
        Scenario.SHIFT: Relation(_play_shift, _compare_shift),
    }
)


def _capacity(first: Run) -> int:
    return int(ROOM * (first.reading.peak_bytes or 0))


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def moving_cases(case: Case) -> Iterator[Case]:
    """The probes on which a picture is moved."""
    for mechanism in MOVING:
        if is_local(case.facts, mechanism):
            yield moving(case, mechanism)


def is_local(family: Family, mechanism: Mechanism) -> bool:
    """Whether the probe of a family depends on pixels near by only.

    That of the halo does not where there are GroupNorms: what they let through adds up.
    """
    return mechanism in MOVING and (mechanism is Mechanism.STUB or family.local_norms)


def reach_of(family: Family, mechanism: Mechanism) -> int:
    """How far a pixel of such a probe depends on others at most, in latent pixels."""
    return family.receptive_field if mechanism is Mechanism.HALO else 0


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


def _with_tiles(case: Case) -> Case:
    """The same with tiles twice as large."""
    return replace(case, tile=2 * case.tile)


def _tiles(*cases: Case) -> str:
    return " and ".join(f"tiles of {case.tile}" for case in cases) + " latent pixels"


def moving(case: Case, mechanism: Mechanism) -> Case:
    """A probe of the family on a plane as large as that of the case beyond its reach."""
    width = case.width + 2 * max(reach_of(case.facts, mechanism) - case.tile, 0)
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
    reach = reach_of(case.facts, case.mechanism) * unit
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
    return int(2 * reach_of(case.facts, case.mechanism) < case.height - 1), 1
