"""Repeated runs: differences are reported, and each run has another order."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from vae_compat.judge import Outcome, Record, gate
from vae_compat.reports.results import Header, Results
from vae_compat.suites.stability.__main__ import differences
from vae_compat.suites.stability.shuffling import ORDER, pytest_collection_modifyitems

HEADER = Header(1, "", "", "", "", "", "", "sim", (), None, 1, "default", "", "", "")
PASSED = Record("sd", "parity", "recommended", Outcome.PASSED, hook="one")
NAMES = [f"test_{check}[one-{case}]" for case in "abcdef" for check in ("parity", "seams")]


def run_of(seed: int, *records: Record) -> Results:
    return Results(replace(HEADER, seed=seed), records, gate(list(records)))


def order_of(monkeypatch: pytest.MonkeyPatch, seed: int, names: list[str]) -> list[str]:
    monkeypatch.setenv(ORDER, str(seed))
    items = [SimpleNamespace(nodeid=name) for name in names]
    pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    return [item.nodeid for item in items]


def test_runs_that_agree_do_not_differ() -> None:
    assert list(differences([run_of(1, PASSED), run_of(2, PASSED)])) == []


def test_other_status_and_missing_record_are_told_with_their_seeds() -> None:
    failed, other = replace(PASSED, status=Outcome.FAILED), replace(PASSED, hook="two")
    told = sorted(differences([run_of(1, PASSED, other), run_of(2, failed)]))
    assert told == [
        "one parity[sd]: seed 1 passed, seed 2 failed",
        "two parity[sd]: seed 1 passed, seed 2 missing",
    ]


def test_order_is_another_one_for_each_seed_and_the_same_in_every_process(monkeypatch) -> None:
    first, other = (order_of(monkeypatch, seed, NAMES) for seed in (1, 2))
    assert sorted(first) == sorted(NAMES)
    assert first != other
    assert first == order_of(monkeypatch, 1, NAMES[::-1])


def test_checks_of_a_case_stay_together(monkeypatch) -> None:
    cases = [name.partition("[")[2] for name in order_of(monkeypatch, 3, NAMES)]
    assert all(one == other for one, other in zip(cases[::2], cases[1::2], strict=True))
