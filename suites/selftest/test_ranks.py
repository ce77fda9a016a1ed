"""Hooks of kind ``ranks``: several processes share a call, and one verdict is made of all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from vae_compat.contracts.cases import Case, Scale
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.device.meter import Convolution, Reading
from vae_compat.errors import UsageError
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.fixtures.specimens.in_ranks import IN_RANKS
from vae_compat.front.explaining.explain import parse_case
from vae_compat.measure.failing import failure_of
from vae_compat.scenarios.performed import Called
from vae_compat.scenarios.ranks import Ranked, merged, perform_in_ranks, ranks_for
from vae_compat.scenarios.stage import Stage
from vae_compat.subject.profile import profile_from_flags
from vae_compat.subject.settings import GROUP
from vae_compat.suites.mutation.trial import is_cause, is_wrong, judged, prepared, profile_of
from vae_compat.suites.selftest.measure_fakes import CASE, FakeHook, TinyModels, a_case, by_tiles

ODD = a_case(height=23, width=16)
"""For ranks 1 to 3 of four processes."""


def stage(case: Case) -> Stage:
    promise = Promise(kind="ranks")
    return Stage(case, promise, FakeHook(by_tiles), TinyModels(torch.zeros(1)), 20)


def called(value: float = 0.0, *, peak: int = 300, live: int = 100, flops: int = 10) -> Called:
    reading = Reading(
        peak_bytes=peak,
        live_before=100,
        live_after=live,
        flops=flops,
        convolutions={Convolution((8, 8, 3, 3), (10, 20)): 2},
    )
    return Called(returned="Tensor", output=torch.full((2, 2), value), reading=reading)


def test_sizes_meet_two_ranks_and_three_in_a_group_that_does_not_begin_with_the_first() -> None:
    made = ranks_for(CASE, Promise()), ranks_for(ODD, Promise())
    assert [(ranks.count, ranks.spare, ranks.world) for ranks in made] == [(2, 0, 2), (3, 1, 4)]


def test_numbers_of_ranks_are_those_that_are_claimed(tmp_path: Path) -> None:
    entry = SPECIMENS["rows-in-ranks"].entry
    claimed = {"further": {"ranks": [4]}, "families": ["sd"], "modes": ["exact"]}
    promise = profile_from_flags(entry, "ranks", **claimed).promise(CASE)
    assert {ranks_for(case, promise).count for case in (CASE, ODD)} == {4}
    for counts in ([1, 2], [9], []):
        with pytest.raises(UsageError, match=r"claims\.ranks.*each from 2 to 8"):
            profile_from_flags(entry, "ranks", **claimed | {"further": {"ranks": counts}})
    with pytest.raises(UsageError, match=r"claims\.ranks.*kind = 'ranks'"):
        profile_from_flags("hook.py:entry", "vae", **claimed)


def test_every_rank_has_its_own_place_in_the_group() -> None:
    def perform(_stage: Stage) -> Called:
        group = GROUP.get()
        rank = dist.get_rank(group)
        told = torch.tensor([1.0])
        dist.all_reduce(told, group=group)
        size = dist.get_world_size(group)
        alone = torch.get_num_threads() == 1  # whatever the threads of its parent
        return called(peak=rank) if told.item() == size and alone else called(-1.0)

    made = perform_in_ranks(stage(ODD), perform)
    assert made.failure is None
    assert made.output is not None
    assert made.output.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert made.reading.peak_bytes == 2
    assert GROUP.get() is None
    assert not dist.is_initialized()


def test_a_rank_does_not_wait_for_threads_that_the_process_it_comes_from_had() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.ones(10**6).sum() == 10**6  # by two threads, which OpenMP keeps
        made = perform_in_ranks(stage(CASE), lambda _: called(float(torch.ones(10**6).sum())))
        threads = perform_in_ranks(stage(CASE), lambda _: called(peak=torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert made.output is not None
    assert made.output.max() == 10**6
    assert threads.reading.peak_bytes == 1


def test_a_hook_that_takes_no_group_has_all_processes_for_itself() -> None:
    def perform(_stage: Stage) -> Called:
        return called(peak=dist.get_world_size())

    told = stage(ODD)
    told.hook.accepted_settings = frozenset({"tile_size"})  # type: ignore[attr-defined]
    assert perform_in_ranks(told, perform).reading.peak_bytes == 3
    told.hook.accepted_settings = frozenset({"group"})  # type: ignore[attr-defined]
    assert perform_in_ranks(told, perform).reading.peak_bytes == 4


def test_ranks_gather_parts_of_different_sizes_as_over_nccl() -> None:
    def perform(_stage: Stage) -> Called:
        group = GROUP.get()
        rank, count = dist.get_rank(group), dist.get_world_size(group)
        heard = [torch.empty(number + 1) for number in range(count)]
        dist.all_gather(heard, torch.full((rank + 1,), float(rank)), group=group)
        return called(peak=int(torch.cat(heard).sum()))

    assert perform_in_ranks(stage(ODD), perform).reading.peak_bytes == 0 + 1 * 2 + 2 * 3


def test_the_gpu_of_a_rank_goes_by_its_number_as_torchrun_tells_it() -> None:
    def perform(_stage: Stage) -> Called:
        own = int(os.environ["LOCAL_RANK"])
        assert own == dist.get_rank() == torch.cuda.device_count() - 1
        told = torch.full((2,), float(own), device=f"cuda:{own}")
        heard = [torch.empty(2, device="cuda").to(own) for _ in range(dist.get_world_size())]
        dist.all_gather(heard, told)
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            told.to(f"cuda:{own + 1}")
        return called(peak=int(torch.stack(heard).sum()))

    with open_device("sim"):
        assert perform_in_ranks(stage(CASE), perform).reading.peak_bytes == 2
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.empty(2, device="cuda:1")


@pytest.mark.filterwarnings("ignore")
def test_what_a_rank_raises_is_the_failure_and_a_rank_that_dies_is_told() -> None:
    def raises(_stage: Stage) -> Called:
        if dist.get_rank(GROUP.get()) == 1:
            return Called(failure=failure_of(ValueError("no rows for me"), "run", 1.0))
        dist.barrier(GROUP.get())
        return called()

    failure = perform_in_ranks(stage(CASE), raises).failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("ValueError", "no rows for me")

    def dies(_stage: Stage) -> Called:
        if dist.get_rank(GROUP.get()) == 1:
            os._exit(1)
        return called()

    failure = perform_in_ranks(stage(CASE), dies).failure
    assert failure is not None
    assert failure.message == "rank 1 died"


@pytest.mark.filterwarnings("ignore")
def test_a_hook_that_talks_to_processes_outside_of_its_group_is_told_so() -> None:
    def talks_to_all(_stage: Stage) -> Called:
        try:
            dist.all_reduce(torch.zeros(1))
        except RuntimeError as error:
            return Called(failure=failure_of(error, "run", 1.0))
        return called()

    failure = perform_in_ranks(stage(ODD), talks_to_all).failure
    assert failure is not None
    assert failure.message.endswith("does the hook talk to the default group?)")


def test_peaks_are_those_of_the_worst_rank_and_all_convolutions_count() -> None:
    ours = [called(peak=300), called(peak=500, flops=30), called(live=104)]
    reading = merged([Ranked(one, 0.0) for one in ours]).reading
    assert (reading.peak_bytes, reading.live_after, reading.flops) == (500, 104, 30)
    assert reading.convolutions == {Convolution((8, 8, 3, 3), (10, 20)): 6}


def test_a_rank_whose_result_differs_is_the_one_that_is_judged() -> None:
    made = merged([Ranked(called(), 0.0), Ranked(called(1.0), 0.0)])
    assert made.output is not None
    assert made.output[0, 0] == 1.0
    none = merged([Ranked(called(), 0.0), Ranked(replace(called(), output=None), 0.0)])
    assert none.output is None


def test_a_profile_of_kind_ranks_has_single_calls_alone_and_its_entry_is_given_the_group() -> None:
    entry = SPECIMENS["rows-in-ranks"].entry
    profile = profile_from_flags(entry, "ranks", families=["sd"], modes=["exact"])
    assert profile.promise(CASE).in_ranks
    assert str(profile.hook.layout) == "diffusers"
    with pytest.raises(UsageError, match="did you mean 'ranks'"):
        profile_from_flags(entry, "rank", families=["sd"], modes=["exact"])


SHOWN = [specimen.name for specimen in IN_RANKS if specimen.name != "four-ranks"]
"""Four ranks are for ``nox -s mutation-matrix``."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_rows_of_each_rank_make_the_picture_or_are_found_out(name: str, tmp_path: Path) -> None:
    specimen = SPECIMENS[name]
    run = prepared([profile_of(specimen)], tmp_path)
    cases = run.cases[name]
    assert {case.scenario for case in cases} == {None}
    assert {case.scale for case in cases} == {Scale.MOCK, Scale.PROBE, Scale.TRAINED}
    shown = specimen.shows_on or "sd-mock-diffusers-encode-exact-17x17t16-b1-f1-float32-sim"
    records, _ = judged(run, name, parse_case(shown))
    causes = {record.check for record in records if is_wrong(record) and is_cause(record)}
    assert specimen.killed_by in causes if specimen.killed_by else causes == set()
