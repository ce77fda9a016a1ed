"""The pytest plugin: parametrizes the tests, and turns findings into records.

It runs in every process of a run. What the process of the command does besides is in
`vae_compat.front.run.gathering`, what worker processes do in `vae_compat.front.run.workers`.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case
from vae_compat.contracts.finding import Finding, Status, Tier
from vae_compat.front.run import workers
from vae_compat.front.run.session import Item, Run
from vae_compat.judge import Outcome
from vae_compat.measure.observation import Observed
from vae_compat.text import printable
from vae_compat.vocabulary import UNJUDGED

RUN = pytest.StashKey[Run]()
ITEM = pytest.StashKey[Item]()
_NODE = re.compile(r"::test_\w+\[(?P<check>\w+)-(?P<hook>[^:\]]*):(?P<case>[^\]]+)\]")
"""A test of a tier's suite: ``::test_minimum[completes-diffusers:sd-mock-...]``."""


class Told(NamedTuple):
    """The fields of a test's id."""

    hook: str
    case: str
    check: str


def told_by(nodeid: str) -> Told | None:
    """The check of a case for a hook that a test is; ``None`` where it is another test."""
    found = _NODE.search(nodeid)
    return None if found is None else Told(found["hook"], found["case"], found["check"])


def pytest_configure(config: pytest.Config) -> None:
    """Join the run where this process is one of its workers."""
    config.addinivalue_line("markers", "case: a check of one case of the matrix")
    given = workers.given(config)
    if given is not None:
        gc.disable()  # up to the end of the collection: what is imported and collected stays
        workers.settle(given.controller)
        config.stash[RUN] = workers.join(given)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per check of the tier and case to which the check applies."""
    if "observation" not in metafunc.fixturenames:
        return
    run = metafunc.config.stash[RUN]
    tier = Tier(metafunc.definition.originalname.removeprefix("test_"))
    parameters = [
        pytest.param(check, item, id=f"{check.name}-{item.id}", marks=_marks(item))
        for check in CHECKS
        if check.tier is tier
        for item in run.items(check.name)
    ]
    metafunc.parametrize(("check", "observation"), parameters, indirect=["observation"])


def _marks(item: Item) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.case]
    if item.known is not None:
        marks.append(pytest.mark.xfail(reason=printable(item.known.reason), strict=True))
    return marks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All checks of a case together, cases of a baseline together, the expensive ones first."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    chosen = []
    for item in items:
        given = item.callspec.params.get("observation") if hasattr(item, "callspec") else None
        if isinstance(given, Item):  # a check without cases gets a placeholder, which is dropped
            item.stash[ITEM] = given
            chosen.append(item)
    items[:] = sorted(chosen, key=lambda item: run.place(*_whose(item)))


def _whose(item: pytest.Item) -> tuple[str, Case]:
    return item.stash[ITEM].subject, item.stash[ITEM].case


@pytest.fixture
def observation(request: pytest.FixtureRequest) -> Observed:
    """The observation of the hook's one run of this case."""
    return request.config.stash[RUN].observe(request.param)


@pytest.fixture
def report(request: pytest.FixtureRequest, observation: Observed) -> Callable[[Finding], None]:
    """Records a check's finding, and fails the test where the finding did not pass."""
    run = request.config.stash[RUN]
    item = request.node.stash[ITEM]

    def take(finding: Finding) -> None:
        record = run.record(item, observation, finding)
        request.node.user_properties.append(workers.told(record))
        try:
            run.album.consider(record, observation)
        except Exception as error:  # a picture decides nothing
            request.node.user_properties.append(workers.unpictured(error))
        message = printable(record.message, lines=True)
        if record.status == Outcome.SKIPPED:
            pytest.skip(f"{UNJUDGED}: {message}")
        if finding.status is not Status.PASSED:
            prefix = "" if finding.status is Status.FAILED else "ERROR: "
            pytest.fail(f"{prefix}{message}", pytrace=False)

    return take


pytest_collection_finish = workers.pytest_collection_finish
pytest_runtest_makereport = workers.pytest_runtest_makereport
