"""Baselines are computed once, shared, and survive crashes."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from vae_compat.contracts.cases import Case, Layout, Mode
from vae_compat.device.meter import Copies, HostMemory, Waits
from vae_compat.measure.observation import Baseline, Noise
from vae_compat.measure.store import BaselineStore
from vae_compat.suites.selftest.measure_fakes import CASE, a_baseline, a_case

SMALL = a_case(height=8, width=8)


def never() -> Baseline:
    raise AssertionError("computed again")


def got(store: BaselineStore, case: Case, make: Callable[[], Baseline]) -> Baseline:
    """The baseline of a case; ``make`` gives it and its truth where the store has neither."""
    return store.get(case, lambda: make().truth, lambda _: make())


def same(one: Baseline, other: Baseline) -> bool:
    return (
        torch.equal(one.output, other.output)
        and torch.equal(one.truth, other.truth)
        and (one.floor, one.reading, one.leaves) == (other.floor, other.reading, other.leaves)
        and (one.weight_bytes, one.input_bytes) == (other.weight_bytes, other.input_bytes)
    )


def test_a_second_store_reads_what_the_first_computed(tmp_path: Path):
    made = a_baseline(SMALL)
    assert same(got(BaselineStore(tmp_path, "a"), SMALL, lambda: made), made)
    assert same(got(BaselineStore(tmp_path, "a"), SMALL, never), made)


def test_all_that_a_device_counts_survives(tmp_path: Path):
    made = a_baseline(SMALL)
    made.reading.waits, made.reading.host = Waits(read=2, copy=1), HostMemory(peak_pageable=3)
    made.reading.copies = (Copies("host_to_device", True, False, False, 2, 1024),)
    made = replace(made, floor=Noise(float("nan"), float("inf")), leaves=(("conv", "cache"),))
    got(BaselineStore(tmp_path, "a"), SMALL, lambda: made)
    found = got(BaselineStore(tmp_path, "a"), SMALL, never)
    assert found.reading == made.reading
    assert (found.leaves, str(found.floor)) == (made.leaves, str(made.floor))


def test_modes_and_tiles_share_a_baseline(tmp_path: Path):
    store = BaselineStore(tmp_path, "a")
    got(store, SMALL, lambda: a_baseline(SMALL))
    got(store, a_case(height=8, width=8, mode=Mode.FAST, tile=4), never)


@pytest.mark.parametrize(("fingerprint", "case"), [("b", SMALL), ("a", CASE)])
def test_other_fingerprints_and_cases_have_their_own(tmp_path: Path, fingerprint, case):
    got(BaselineStore(tmp_path, "a"), SMALL, lambda: a_baseline(SMALL))
    with pytest.raises(AssertionError, match="computed again"):
        got(BaselineStore(tmp_path, fingerprint), case, never)


def test_memory_holds_the_latest_few(tmp_path: Path):
    store = BaselineStore(tmp_path, "a", keep=1)
    first = got(store, SMALL, lambda: a_baseline(SMALL))
    assert got(store, SMALL, never) is first
    got(store, CASE, lambda: a_baseline(CASE))
    assert got(store, SMALL, never) is not first


def test_a_failed_computation_is_tried_again(tmp_path: Path):
    store = BaselineStore(tmp_path, "a")
    with pytest.raises(AssertionError):
        got(store, SMALL, never)
    got(store, SMALL, lambda: a_baseline(SMALL))


@pytest.mark.parametrize("content", [b"", b"not a tensor file", b"PK\x03\x04 half"])
def test_a_spoilt_file_is_computed_anew(tmp_path: Path, content: bytes):
    got(BaselineStore(tmp_path, "a"), SMALL, lambda: a_baseline(SMALL))
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(content)
    made = a_baseline(SMALL)
    assert same(got(BaselineStore(tmp_path, "a"), SMALL, lambda: made), made)
    assert same(got(BaselineStore(tmp_path, "a"), SMALL, never), made)


def test_nothing_but_whole_files_is_left(tmp_path: Path):
    got(BaselineStore(tmp_path, "a"), SMALL, lambda: a_baseline(SMALL))
    assert {file.suffix for file in tmp_path.iterdir()} <= {".safetensors", ".lock"}


def _die_computing(folder: Path) -> None:
    def die() -> Baseline:
        (folder / "dying").touch()
        os._exit(1)

    got(BaselineStore(folder, "a"), SMALL, die)


def _compute_slowly(folder: Path) -> None:
    def compute() -> torch.Tensor:
        with (folder / "computed").open("a") as log:
            log.write("x")
        time.sleep(0.3)
        return a_baseline(SMALL).truth

    BaselineStore(folder, "a").truth(SMALL, compute)


def test_a_process_that_dies_computing_blocks_nobody(tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=_die_computing, args=(tmp_path,))
    process.start()
    process.join(20)
    assert (tmp_path / "dying").exists()
    store = BaselineStore(tmp_path, "a", patience=20)
    started = time.monotonic()
    got(store, SMALL, lambda: a_baseline(SMALL))
    assert time.monotonic() - started < 10


def test_two_processes_compute_once(tmp_path: Path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_compute_slowly, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert (tmp_path / "computed").read_text() == "x"


def test_patience_ends(tmp_path: Path):
    store = BaselineStore(tmp_path, "a", patience=0.1)
    lock = FileLock(tmp_path / f"{store.key(SMALL.baseline_id)}.lock")
    with lock:
        made = a_baseline(SMALL)
        assert same(got(store, SMALL, lambda: made), made)


def test_layouts_and_devices_share_a_truth(tmp_path: Path):
    case = a_case(height=8, width=8)
    truth = a_baseline(case).truth
    store = BaselineStore(tmp_path, "a")
    assert torch.equal(store.truth(case, lambda: truth), truth)
    for kin in (replace(case, layout=Layout.DIFFUSERS), replace(case, device="cpu")):
        assert torch.equal(BaselineStore(tmp_path, "a").truth(kin, never), truth)
    with pytest.raises(AssertionError, match="computed again"):
        store.truth(replace(case, dtype="bfloat16"), never)
