"""A pytest plugin that runs the cases of a run, and the checks of a case, in another order.

Checks of one case stay together, as they look at one run of the hook, and the processes of a run
agree on the order: it depends on ``VAE_COMPAT_ORDER`` alone.
"""

from __future__ import annotations

import os
import random

import pytest

ORDER = "VAE_COMPAT_ORDER"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Come after the run has put its tests in order."""
    chance = random.Random(os.environ[ORDER])
    items.sort(key=lambda item: item.nodeid)
    chance.shuffle(items)
    places: dict[str, float] = {}
    for item in items:
        places.setdefault(_case(item), len(places))
    items.sort(key=lambda item: places[_case(item)])


def _case(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[2]
