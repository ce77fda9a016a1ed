"""Each relation is broken by a hook with that defect, and by no sound hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_compat.checks.registry import CHECKS
from vae_compat.checks.relations import check_batch_split
from vae_compat.contracts.cases import Case, Direction, Layout, Mechanism, Mode, Scale, Scenario
from vae_compat.contracts.finding import Finding, Status, Tier
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.families import FAMILIES
from vae_compat.fixtures import probes
from vae_compat.fixtures.inputs import make_input
from vae_compat.fixtures.vaes import truth
from vae_compat.matrix import generate
from vae_compat.measure.observation import Noise
from vae_compat.scenarios.comparison import Comparison, compared
from vae_compat.scenarios.performed import Called, Played
from vae_compat.scenarios.relation import SHARP, Related, pair_agreeing
from vae_compat.scenarios.repeats import uninitialised
from vae_compat.scenarios.results import Results
from vae_compat.scenarios.scenes import RELATIONS
from vae_compat.scenarios.shift import in_common, is_local, moved, moving
from vae_compat.scenarios.stage import Stage
from vae_compat.suites.selftest.measure_fakes import FakeHook, TinyView, a_case, hostile
from vae_compat.suites.selftest.test_matrix import Claimed

pytestmark = pytest.mark.slow

Original = Callable[[Tensor], Tensor]
Hook = Callable[[Case, Original, Tensor], Any]
CHECK = {check.name: check for check in CHECKS}


# Hooks: the sound one and what each relation is about --------------------------------------------


def strips(
    case: Case, original: Original, x: Tensor, halo: int = 1, step: int = 0, skip: int = 0
) -> Tensor:
    """Strips of rows with a halo, written into one plane: exact for the `TinyVAE` decoder.

    Every strip but the first is read ``step`` pixels too low. The last ``skip`` rows of each strip
    are not written.
    """
    height, width = x.shape[-2:]
    tile = case.tile if case.mode is Mode.EXACT else case.tile // 2
    out = x.new_empty(x.shape[0], 3, height * 8, width * 8)
    for top in range(0, height, tile):
        bottom = min(top + tile, height)
        start, stop = max(top - halo, 0), min(bottom + halo, height)
        shift = step if top else 0
        done = original(x[..., start + shift : stop + shift, :])
        rows = done[..., (top - start) * 8 :, :][..., : (bottom - top) * 8, :]
        out[..., top * 8 : top * 8 + rows.shape[-2] - skip, :] = rows[
            ..., : rows.shape[-2] - skip, :
        ]
    return out


def no_halo(case: Case, original: Original, x: Tensor) -> Tensor:
    return strips(case, original, x, halo=0)


def no_halo_in_quadtrees(case: Case, original: Original, x: Tensor) -> Tensor:
    return strips(case, original, x, halo=int(case.mode is Mode.EXACT))


def mean_of_the_batch(case: Case, original: Original, x: Tensor) -> Tensor:
    return strips(case, original, x) + 1e-6 * x.mean()


def last_row_unwritten(case: Case, original: Original, x: Tensor) -> Tensor:
    return strips(case, original, x, skip=1)


def one_row_too_low(case: Case, original: Original, x: Tensor) -> Tensor:
    return strips(case, original, nn.functional.pad(x, (0, 0, 0, 1)), step=1)[..., :-8, :]


class Remembering:
    """Multiplies by a mean of the input before."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, case: Case, original: Original, x: Tensor) -> Tensor:
        self.seen.append(float(x[..., 0].mean()))
        return strips(case, original, x) * self.seen[max(len(self.seen) - 2, 0)]


def short_of_memory(case: Case, original: Original, x: Tensor) -> Tensor:
    """Cuts without a halo on a device with little memory."""
    return strips(case, original, x, halo=int(torch.cuda.mem_get_info()[1] > 2**30))


def rounds(case: Case, original: Original, x: Tensor) -> Tensor:
    """Rounds the input to float32."""
    return strips(case, original, x.float().to(x.dtype))


def refuses_double(case: Case, original: Original, x: Tensor) -> Tensor:
    if x.dtype is torch.float64:
        raise TypeError("float64 is not supported")
    return strips(case, original, x)


def untiled(case: Case, original: Original, x: Tensor) -> Tensor:
    return original(x)


def raises(case: Case, original: Original, x: Tensor) -> Tensor:
    raise ValueError("no")


def returns_hostile(case: Case, original: Original, x: Tensor) -> Any:
    return hostile()


def returns_none(case: Case, original: Original, x: Tensor) -> None:
    return None


# A stage for them --------------------------------------------------------------------------------


class Built(FakeHook):
    """A `FakeHook` that knows the case it is built for."""

    def __init__(self, function: Hook) -> None:
        super().__init__(function)
        self.made = function

    def put_on(self, view: TinyView, case: Case, **_: Any) -> Any:
        return FakeHook(partial(self.made, case)).put_on(view, case)


@dataclass(frozen=True)
class TinyBench:
    """Makes a `TinyVAE` for every case; in a probe its pixels do not depend on neighbours."""

    def view(self, case: Case) -> TinyView:
        return self._made(case, torch.float32)

    def twin(self, case: Case) -> TinyView:
        return self._made(case, torch.float64)

    def views(self, case: Case) -> tuple[TinyView, ...]:
        return (self.view(case),)

    def twins(self, case: Case) -> tuple[TinyView, ...]:
        return (self.twin(case),)

    def make_input(self, case: Case) -> Tensor:
        return make_input(case)

    def _made(self, case: Case, dtype: torch.dtype) -> TinyView:
        view = TinyView(dtype)
        if case.mechanism is not None:
            with torch.no_grad():
                for coder in (view.encoder, view.decoder):
                    kernel = coder.conv.weight
                    kernel.copy_(nn.functional.pad(kernel[..., 1:2, 1:2], (1, 1, 1, 1)))
        return view


CASES = {
    Scenario.TILE_SIZE: a_case(height=20, width=40, tile=8),
    Scenario.OVERSIZE: a_case(height=72, width=16, tile=8),
    Scenario.PARTITION: a_case(height=40, width=20, mode=Mode.QUADTREE),
    Scenario.BATCH_SPLIT: a_case(height=40, width=20, batch=2),
    Scenario.REPEAT: a_case(height=40, width=20),
    Scenario.POISON: a_case(height=40, width=20),
    Scenario.SHIFT: a_case(height=32, width=10, tile=8),
}


def play(scenario: Scenario, hook: Hook) -> Related:
    case = replace(CASES[scenario], scenario=scenario)
    bench, relation = TinyBench(), RELATIONS[scenario]
    performed = relation.perform(Stage(case, Promise(), Built(hook), bench, 20.0))
    return relation.examine(case, Promise(), performed, bench)


def judged(scenario: Scenario, hook: Hook) -> Finding:
    return CHECK[scenario](play(scenario, hook))


# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", RELATIONS)
def test_a_sound_hook_passes(scenario: Scenario) -> None:
    found = judged(scenario, strips)
    tier = Tier.RECOMMENDED if scenario is Scenario.REPEAT else Tier.ADVANCED
    assert (found.status, found.tier, found.check) == (Status.PASSED, tier, scenario)
    assert found.metrics["apart"] <= SHARP or scenario is Scenario.SHIFT


@pytest.mark.parametrize("scenario", RELATIONS)
@pytest.mark.parametrize("hook", [rounds, refuses_double])
def test_a_hook_that_cannot_do_float64_is_not_accused(hook: Hook, scenario: Scenario) -> None:
    found = judged(scenario, hook)
    assert found.status is Status.PASSED
    assert found.metrics["dtype"] == "float32"


def test_noise_of_the_vae_is_no_difference_where_the_hook_computes_in_its_dtype() -> None:
    floor, ones = Noise(1e-6, 1e-5), torch.ones(1, 1, 2, 2)
    base = SimpleNamespace(floor=floor, truth=ones.double())
    bench = SimpleNamespace(baseline=lambda _: base)
    for dtype, apart, holds in (
        ("float32", 7e-5, True),
        ("float32", 9e-5, False),
        ("float64", 1e-6, False),
    ):
        calls = (Called(output=ones, dtype=dtype), Called(output=ones + apart, dtype=dtype))
        results = Results(a_case(), Promise(), bench, Played(calls=calls))
        assert pair_agreeing(results, "two calls", 0, 1).holds is holds


BROKEN = {
    Scenario.TILE_SIZE: no_halo,
    Scenario.OVERSIZE: short_of_memory,
    Scenario.PARTITION: no_halo_in_quadtrees,
    Scenario.BATCH_SPLIT: mean_of_the_batch,
    Scenario.REPEAT: Remembering(),
    Scenario.POISON: last_row_unwritten,
    Scenario.SHIFT: one_row_too_low,
}


@pytest.mark.parametrize("scenario", RELATIONS)
def test_the_defect_of_each_relation_fails_it(scenario: Scenario) -> None:
    found = judged(scenario, BROKEN[scenario])
    assert found.status is Status.FAILED
    assert "x rms apart for" in found.message
    assert " depend" in found.message or "never written" in found.message


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        (Scenario.TILE_SIZE, "same convolutions"),
        (Scenario.PARTITION, "same convolutions"),
        (Scenario.OVERSIZE, "untiled runs in"),
        (Scenario.SHIFT, "tiles did not run"),
    ],
)
def test_a_hook_that_does_not_tile_shows_nothing(scenario: Scenario, why: str) -> None:
    found = judged(scenario, untiled)
    assert found.status is Status.NOT_JUDGED
    assert why in found.message


@pytest.mark.parametrize("scenario", RELATIONS)
@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (raises, "ValueError: no"),
        (returns_none, "returned None where"),
        (returns_hostile, "returned Hostile where"),
    ],
)
def test_a_hook_without_results_fails(hook: Hook, told: str, scenario: Scenario) -> None:
    found = judged(scenario, hook)
    assert found.status is Status.FAILED
    assert told in found.message


def test_a_difference_counts_also_where_the_rest_shows_nothing() -> None:
    found = compared("it", torch.ones(2), torch.zeros(2), SHARP)
    related = Related(case=a_case(), promise=Promise(), comparisons=(found,), empty="no tiles")
    assert CHECK["shift"](related).status is Status.FAILED
    assert CHECK["shift"](replace(related, comparisons=())).status is Status.NOT_JUDGED


def test_poison_reaches_host_and_device_and_ends_with_the_context() -> None:
    with torch.no_grad(), open_device("sim") as device, uninitialised(filled=True):
        places = {"cpu": torch.empty(64), "cuda": torch.empty(64, device="cuda")}
        places["like"] = torch.empty_like(places["cuda"])
        places["new"] = places["cuda"].new_empty(64)
        for made in places.values():
            assert bool(device.host(made).isnan().all())
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "other", [torch.ones(2, 3), torch.full((2, 2), float("nan")), 2 * torch.ones(2, 2)]
)
def test_what_is_not_one_result_is_apart(other: Tensor) -> None:
    assert compared("it", torch.ones(2, 2), torch.ones(2, 2), 0.0).apart == 0
    assert compared("it", torch.ones(2, 2), other, 0.0).apart >= 1


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    ("family", "mechanism"),
    [("sd", Mechanism.STUB), ("qwen", Mechanism.HALO), ("wan22", Mechanism.HALO)],
)
def test_probes_of_the_relation_move_with_the_picture(
    family: str, mechanism: Mechanism, direction: Direction
) -> None:
    case = moving(
        Case(family, Scale.MOCK, Layout.DIFFUSERS, direction, Mode.EXACT, 10, 32, 8), mechanism
    )
    assert is_local(FAMILIES[family], mechanism)
    probe = twin(family, mechanism)
    with torch.no_grad():
        results = [run(probe, direction, x.double()) for x in moved(case, make_input)]
    here, there = in_common(case, *results)
    assert here.numel() > 0.05 * results[0].numel()
    bound = SHARP if FAMILIES[family].local_norms else 1e-5
    assert compared("it", here, there, bound).apart < bound
    assert compared("it", here, here.roll(1, -1), bound).apart > 0.1


@cache
def twin(family: str, mechanism: Mechanism) -> Any:
    return truth(probes.build(family, mechanism))


def run(vae: Any, direction: Direction, x: Tensor) -> Tensor:
    if direction is Direction.DECODE:
        return vae.decode(x).sample
    return vae.encode(x).latent_dist.parameters


# Which cases -------------------------------------------------------------------------------------


MODES: dict[str, Any] = {"modes": ("exact", "fast", "quadtree")}


def relations(device: str = "sim", **claims: Any) -> Iterator[Case]:
    cases = generate(Claimed(**MODES | claims), Layout.LDM, device, ["float32"], full=True)
    return (case for case in cases if case.scenario in RELATIONS)


def applying(grade: str, cache: str, case: Case) -> set[str]:
    promise = Promise(grade=grade, cache=cache)
    return {check.name for check in CHECKS if check.applies(case, promise)}


def test_each_scenario_is_judged_by_its_own_check_alone() -> None:
    found = {case.scenario: applying("exact", "none", case) for case in relations()}
    assert found == {scenario: {str(scenario)} for scenario in RELATIONS}


def test_who_promises_less_is_held_to_what_holds_of_any_hook() -> None:
    names = [applying("degraded", "none", case) for case in relations()]
    assert set().union(*names) == {"batch_split", "repeat", "poison"}


def test_who_falls_back_has_no_tiles_to_compare() -> None:
    names = [applying("exact", "fallback", case) for case in relations(families=("qwen",))]
    assert set().union(*names) == {"batch_split", "repeat", "poison"}


def test_partitions_are_compared_where_both_are_claimed() -> None:
    assert not any(
        case.scenario is Scenario.PARTITION for case in relations(modes=("quadtree", "fast"))
    )
    assert {case.mode for case in relations() if case.scenario is Scenario.PARTITION} == {
        Mode.QUADTREE
    }


def test_relations_need_the_simulated_accelerator() -> None:
    assert not [*relations("cuda"), *relations("cpu")]


@pytest.mark.parametrize(
    ("taken", "slices", "told"),
    [
        ((200, 100, 100), False, ""),
        ((211, 100, 100), False, "for a batch of 2"),
        ((120, 100, 90), True, ""),
        ((121, 100, 90), True, "one by one"),
        ((), False, "memory was not measured"),
    ],
)
def test_memory_of_a_batch_is_that_of_its_items(
    taken: tuple[int, ...], slices: bool, told: str
) -> None:
    case = a_case(batch=2, scenario=Scenario.BATCH_SPLIT)
    same = Comparison("item 0 in a batch and by itself", 0.0)
    related = Related(
        case=case, promise=Promise(slices=slices), comparisons=(same,), taken=taken, given=10
    )
    finding = check_batch_split(related)
    assert (finding.status is Status.PASSED) is (not told)
    assert told in finding.message
    if taken and not slices:  # weights of 50 that are half as large during a call
        halved = tuple(each - 25 for each in taken)
        weighed = replace(related, taken=halved, before=50)
        assert check_batch_split(weighed).status is Status.PASSED
        weighed = replace(weighed, taken=(halved[0] + 100, *halved[1:]))
        assert check_batch_split(weighed).status is Status.FAILED
