"""Every curated mutation, planted alone in the reference hook, turns its run red."""

from __future__ import annotations

import pytest
import torch

from vae_compat.front.run.session import Run
from vae_compat.suites.mutation.curated.declaring import Mutation
from vae_compat.suites.mutation.curated.judging import (
    MUTATIONS,
    prepared_run,
    with_mutation,
    without,
)
from vae_compat.suites.mutation.trial import is_wrong


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return prepared_run(tmp_path_factory.mktemp("curated"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_defect_turns_the_run_red(mutation: Mutation, run: Run) -> None:
    red = {
        record.check: record.message for record in filter(is_wrong, with_mutation(run, mutation))
    }
    assert red.keys() >= set(mutation.fails)
    # Where nothing came out, all checks are red and say nothing.
    assert ("completes" in red) == ("completes" in mutation.fails), red


@pytest.mark.parametrize(
    ("setup", "case"), dict.fromkeys((mutation.setup, mutation.case) for mutation in MUTATIONS)
)
def test_the_hook_without_a_defect_is_green(setup: str, case: str, run: Run) -> None:
    records = without(run, setup, case)
    assert records
    assert not [record.message for record in filter(is_wrong, records)]
