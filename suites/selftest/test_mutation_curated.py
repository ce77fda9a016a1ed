"""Curated mutations fit the source of the hook. A session of its own judges them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Layout
from vae_compat.matrix import generate
from vae_compat.suites.mutation.copies import Copy, copied, copied_with, with_seam
from vae_compat.suites.mutation.curated.declaring import ENTRY, PACKAGE, Mutation, Topic, all_of
from vae_compat.suites.mutation.curated.judging import MUTATIONS, SETUPS

DTYPES = ("float32", "bfloat16", "float16")


@pytest.fixture(scope="module")
def copy() -> Iterator[Copy]:
    made = copied(PACKAGE, ENTRY)
    yield made
    made.forget()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_fits_the_source_and_is_accused_by_known_checks(
    mutation: Mutation, copy: Copy
) -> None:
    if mutation.calls is None:
        copy.place(mutation.within)
    else:
        with_seam(PACKAGE, mutation.within, mutation.calls)
    assert mutation.fails
    assert {check.name for check in CHECKS}.issuperset(mutation.fails)


def test_there_are_fifty_mutations_or_more_and_each_meets_a_case_of_the_default_matrix() -> None:
    known = {
        (name, case.id)
        for name, setup in SETUPS.items()
        for device in ("sim", "cpu")
        for case in generate(
            setup.profile.claims, Layout(setup.profile.hook.layout), device, DTYPES
        )
    }
    assert {(mutation.setup, mutation.case) for mutation in MUTATIONS} <= known
    assert len(MUTATIONS) >= 50
    with pytest.raises(ValueError, match="one name"):
        all_of([Topic(MUTATIONS[:1]), Topic(MUTATIONS[:1])])


@pytest.mark.parametrize(
    ("within", "calls", "match"),
    [
        ("VAEHook.no_such_name", None, "VAEHook.no_such_name is there 0 times"),
        ("attend", None, r"attend is there \d times, not once: .*attention.attend"),
        ("VAEHook.tiled", "no_such_name", "VAEHook.tiled calls no no_such_name"),
    ],
)
def test_mutation_that_no_longer_fits_fails_loudly(
    within: str, calls: str | None, match: str
) -> None:
    stale = Mutation("stale", within, calls, lambda right: right, "reference", "", ("parity",))
    with pytest.raises(LookupError, match=match):
        stale.plant()


def test_what_a_function_calls_is_wrong_there_alone(copy: Copy) -> None:
    def wrong(right: Any) -> Any:
        return lambda counts, both: (both.sum() + 1, right(counts, both))

    other = copied_with(PACKAGE, ENTRY, "Moments.summary", "merged", wrong)
    tile = torch.full((1, 1, 2, 2), 3.0)
    both = [each.place("Moments.add")[0](1) for each in (copy, other)]
    for moments in both:
        moments.add(tile)
    right, found = (moments.summary() for moments in both)
    assert float(right[0]) == 3
    assert float(found[0]) == 4
    other.forget()
