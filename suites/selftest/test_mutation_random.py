"""Random faults are drawn, planted and watched, and the original stays unchanged."""

from __future__ import annotations

import os
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.fixtures.specimens.resting import Box
from vae_compat.front.run.session import Run
from vae_compat.reports.kill_matrix import Matrix, Mutant, Trial, to_markdown, to_text
from vae_compat.suites.mutation.copies import Copy, copied, written
from vae_compat.suites.mutation.random_faults import mutants
from vae_compat.suites.mutation.random_faults.faults import (
    RESULT,
    Planted,
    Seen,
    Site,
    Target,
    ValueFault,
    value_faults,
)
from vae_compat.suites.mutation.random_faults.rewriting import source_faults
from vae_compat.suites.mutation.random_faults.targets import targets
from vae_compat.suites.mutation.random_faults.values import KINDS, at, differs, kind_of, parts, put
from vae_compat.suites.mutation.spreading import spread
from vae_compat.tiled_vae import VAEHook

CPU = torch.device("cpu")
SAMPLES: dict[str, Any] = {
    "tensor": torch.arange(24.0).reshape(1, 2, 3, 4) / 7,
    "integer": 5,
    "real": 0.5,
    "switch": True,
    "span": Box(1, 5, 2, 8),
    "sequence": [1.0, 2.0, 3.0],
    "device": CPU,
}


@pytest.fixture
def target() -> Target:
    return targets()["resting"]


def original(name: str) -> Any:
    """A class of the hook that ships here, whatever module it is in."""
    hook = VAEHook.__module__.rpartition(".")[0]
    held = [
        vars(m)[name] for at, m in sys.modules.items() if at.startswith(hook) and name in vars(m)
    ]
    return held[0]


def seen(target: Target) -> Seen:
    """What would have been seen in a run of a few functions."""
    functions = [name for name, _ in target.copy().functions()]
    sites = {Site(f, RESULT, (), kind) for f in functions for kind in ("tensor", "span")}
    lines = {("resting", number) for number in range(400)}
    return Seen(sites, {function: {"a": 9, "b": 1} for function in functions}, lines)


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_operator_changes_a_value(kind: str) -> None:
    value = SAMPLES[kind]
    assert kind_of(value) == kind
    old = {"tensor": torch.ones(1, 2, 3, 4), "span": Box(0, 1, 0, 1), "sequence": [0.0, 0.0, 0.0]}
    for name, operator in KINDS[kind].items():
        if name != "wrong device" and (name != "stale" or kind in old):
            assert differs(value, operator(value, old.get(kind))), name


def test_parts_are_found_and_replaced_in_a_copy() -> None:
    value = (Box(1, 2, 3, 4), [torch.zeros(1, 2, 3), torch.ones(1, 2, 3)])
    places = [path for path, _ in parts(value)]
    assert {(), (0,), (1,), (1, 0), (1, 1)} <= set(places)
    changed = put(value, (1, 1), torch.full((1, 2, 3), 7.0))
    assert at(changed, (1, 1)).max() == 7
    assert at(value, (1, 1)).max() == 1


def test_copy_is_another_one_and_leaves_nothing_behind() -> None:
    before = set(sys.modules)
    copy = copied("vae_compat.tiled_vae", ":VAEHook")
    theirs = copy.place("Moments.add")[0]
    copy.replace("statistics.Moments.add", lambda function: lambda self, tile: None)
    ours = original("Moments")
    assert theirs is not ours
    moments, numb = ours(1), theirs(1)
    for each in (moments, numb):
        each.add(torch.ones(1, 1, 2, 2))
    assert (moments.count, numb.count) == (4, 0)
    copy.forget()
    assert set(sys.modules) == before


def test_function_is_replaced_wherever_it_is_named() -> None:
    copy = copied("vae_compat.tiled_vae", ":VAEHook")
    copy.replace("tiles.grid", lambda function: lambda *args: "replaced")
    planner = copy.place("Planner.cut")[0].__module__
    assert sys.modules[planner].grid() == "replaced"
    copy.forget()


def test_fault_acts_on_the_call_it_is_for_and_anew_in_each_case(target: Target) -> None:
    site = Site("resting.Box.of", RESULT, (), "tensor")
    fault = ValueFault(target, site, "drop", "once", 2)
    planted = Planted(fault)
    for _ in range(2):
        with planted.loaded(CPU) as hook:
            box = sys.modules[hook.__module__].Box(0, 1, 0, 2)
            sums = [float(box.of(torch.ones(1, 2)).sum()) for _ in range(3)]
        assert sums == [2, 0, 2]
    assert fault.acted
    planted.forget()


def test_same_seed_draws_the_same_faults_and_another_seed_others(target: Target) -> None:
    shown = seen(target)
    counts = dict.fromkeys(("tile", "halo", "statistics", "merge"), 6)

    def drawn(seed: int) -> list[str]:
        values = value_faults(target, shown, seed, counts)
        lines = source_faults(target, shown, seed, 10)
        return [f"{fault.level} {fault.operator} {fault.place}" for fault in (*values, *lines)]

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1))) == len(drawn(1)) == 34
    assert set(drawn(1)) != set(drawn(2))


def test_draw_does_not_depend_on_the_order_in_which_places_were_seen(target: Target) -> None:
    shown = seen(target)
    counts = dict.fromkeys(("tile", "halo", "statistics", "merge"), 30)

    def drawn(sites: list[Site]) -> list[tuple[Site, str, str]]:
        found = value_faults(target, Seen(sites, shown.calls), 1, counts)
        return [(fault.site, fault.operator, fault.times) for fault in found]

    places = sorted(shown.sites, key=str)  # those that take values of two kinds in any order
    assert drawn(places) == drawn(places[::-1])


def test_wrong_line_runs_in_the_copy_alone(target: Target) -> None:
    def whole(copy: Copy) -> list[Any]:
        return list(copy.modules()["resting"].grid(8, 8, 4, 4))

    sound = whole(target.copy())
    wrong = []
    for fault in source_faults(target, seen(target), 3, 60):
        if fault.function == "resting.grid":
            try:
                wrong.append(whole(fault.plant()) != sound)
            except (ValueError, TypeError, NameError, ZeroDivisionError):
                wrong.append(True)
    assert any(wrong)
    assert whole(target.copy()) == sound


def test_job_whose_process_dies_is_started_again(tmp_path: Path) -> None:
    def work(name: str) -> str:
        mark = tmp_path / name
        if name == "dies" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        return name.upper()

    assert spread(work, ["lives", "dies"], tmp_path, 2) == ["LIVES", "DIES"]


def test_job_that_always_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="dies ended with -9"):
        spread(lambda _: os.kill(os.getpid(), 9), ["dies"], tmp_path, 1)


def mutant(**more: Any) -> Mutant:
    return Mutant("m", "resting", "tile", "drop", "f(x)", **{"acted": True, "cases": 3} | more)


def test_matrix_counts_what_is_killed_equivalent_and_accused() -> None:
    trials = (
        Trial("sound", None, judged={"parity": 3}),
        Trial("accused", None, judged={"parity": 3}, wrong={"parity": 1}, message="p[c]: why"),
        Trial(
            "caught", "parity", "recommended", {"parity": 3}, {"parity": 1}, frozenset({"parity"})
        ),
        Trial("missed", "seams", "recommended", {"seams": 3}, {"parity": 1}),
    )
    mutants = (
        mutant(check="finite", checks=("finite",)),
        mutant(check="completes", checks=("completes",), crash=True),
        mutant(),
        mutant(acted=False),
        mutant(other_output=1),
        mutant(other_output=1, reviewed="as good"),
        mutant(other_numbers=1),
        mutant(other_numbers=1, worse="c: peak_bytes was 1, is 2"),
    )
    matrix = Matrix(("completes", "finite", "parity", "seams"), trials, mutants, seed=1)
    assert [t.name for t in matrix.killed] == ["caught"]
    assert [t.name for t in matrix.false_alarms] == ["accused"]
    assert matrix.kill_rate == pytest.approx(3 / 4)
    assert matrix.never_failed == ["seams"]
    assert "1 of 2" in to_text(matrix)
    text = to_markdown(matrix)
    assert "| caught | K |" in text
    assert "**missed**: `seams` does not fail" in text
    assert "**accused**: accused. p[c]: why" in text


@pytest.mark.parametrize("target", targets().values(), ids=list(targets()))
def test_every_pattern_of_a_target_names_some_of_its_functions(target: Target) -> None:
    functions = [f".{path}" for path, _ in written(target.package)]
    for pattern, _ in target.levels:
        assert any(fnmatch(function, f"*.{pattern}") for function in functions), pattern


def test_dtype_of_no_floating_point_is_no_place_for_a_tensor_fault() -> None:
    assert kind_of(Tensor([1.0])) is None


@pytest.mark.slow
def test_a_trial_takes_cases_that_differ_and_runs_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[list[Case]] = []

    def cheapest(target: Target, run: Run) -> list[Case]:
        chosen.append(mutants_cases(target, run))
        return chosen[0][:1]

    mutants_cases = mutants.cases_for
    monkeypatch.setattr(mutants, "cases_for", cheapest)
    plan = mutants.Plan(targets()["reference"], {"merge": 1}, 2)
    found = mutants.on_trial(plan, tmp_path, 20, processes=1)
    assert len(chosen[0]) == len(set(chosen[0]))
    for trait in ("batch", "frames", "dtype", "direction", "mode"):
        assert len({getattr(case, trait) for case in chosen[0]}) > 1
    assert [mutant.hook for mutant in found] == ["reference"] * 3
    assert all(mutant.check or mutant.cases <= 1 for mutant in found)
