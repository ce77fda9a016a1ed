"""The pytest plugin: the parametrized observations, and what becomes of a finding.

It runs in every process of a run. What the process of the command does besides is in
`vae_compat.front.gathering`, what worker processes do in `vae_compat.front.workers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
from torch import Tensor, nn
from vae_compat.cases import Case, Layout, Mechanism, Scale
from vae_compat.checks.finding import Finding, Status
from vae_compat.checks.registry import CHECKS
from vae_compat.families import Family
from vae_compat.fixtures.inputs import make_input
from vae_compat.fixtures.layouts import VARIANTS, view
from vae_compat.fixtures.probes import build as build_probe
from vae_compat.fixtures.probes import with_image_channels
from vae_compat.fixtures.vaes import build as build_vae
from vae_compat.fixtures.vaes import parse_weights, truth
from vae_compat.front import workers
from vae_compat.front.options import Options
from vae_compat.judge import Outcome
from vae_compat.measure.observation import LayoutVAE, Observed
from vae_compat.reports.escaping import printable
from vae_compat.session import Item, Run

RUN = pytest.StashKey[Run]()
ITEM = pytest.StashKey[Item]()
_CHECKS = {check.name: check for check in CHECKS}
_NODE = re.compile(r"::test_(?P<check>\w+)\[(?P<hook>[^:\]]*):(?P<case>[^\]]+)\]")


class Told(NamedTuple):
    """What the id of a test tells."""

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
        workers.settle(given.controller)
        config.stash[RUN] = workers.join(given, Fixtures)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per check and case to which the check applies."""
    if "observation" not in metafunc.fixturenames:
        return
    run = metafunc.config.stash[RUN]
    check = _CHECKS[metafunc.definition.originalname.removeprefix("test_")]
    parameters = []
    for item in run.items(check.name):
        marks = [pytest.mark.case]
        if item.known is not None:
            marks.append(pytest.mark.xfail(reason=printable(item.known.reason), strict=True))
        parameters.append(pytest.param(item, id=item.id, marks=marks))
    metafunc.parametrize("observation", parameters, indirect=True)


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
    """What the hook's one run of this case produced."""
    return request.config.stash[RUN].observe(request.param)


@pytest.fixture
def report(request: pytest.FixtureRequest, observation: Observed) -> Callable[[Finding], None]:
    """Takes a check's finding into the record, and fails the test where it did not pass."""
    run = request.config.stash[RUN]
    item = request.node.stash[ITEM]

    def take(finding: Finding) -> None:
        record = run.record(item, observation, finding)
        request.node.user_properties.append(workers.told(record))
        message = printable(record.message, lines=True)
        if record.status == Outcome.SKIPPED:
            pytest.skip(f"a known failure of this case leaves nothing to judge: {message}")
        if finding.status is not Status.PASSED:
            prefix = "" if finding.status is Status.FAILED else "ERROR: "
            pytest.fail(f"{prefix}{message}", pytrace=False)

    return take


pytest_runtest_makereport = workers.pytest_runtest_makereport


class Fixtures:
    """The VAEs, views and inputs of ``fixtures``, as the options of a run want them."""

    def __init__(self, options: Options) -> None:
        self._seed = options.seed
        self._image = options.image
        self._weights = dict(map(parse_weights, options.weights))

    def build(self, case: Case) -> nn.Module:
        """The VAE of a case."""
        if case.mechanism is Mechanism.CHANNELS:
            facts = with_image_channels(case.facts, case.image_channels)
            return build_probe(facts, Mechanism.STUB, seed=self._seed)
        if case.mechanism is not None:
            return build_probe(case.family, case.mechanism, seed=self._seed)
        weights = self._weights.get(case.family) if case.scale is Scale.REAL else None
        return build_vae(case.family, case.scale, seed=self._seed, weights=weights)

    def truth(self, vae: nn.Module) -> nn.Module:
        """Its float64 twin."""
        return truth(vae)

    def views(self, vae: nn.Module, layout: Layout, family: Family) -> tuple[LayoutVAE, ...]:
        """The VAE in a layout; the Wan layout also as ComfyUI has rewritten it."""
        variants = VARIANTS if layout is Layout.WAN else VARIANTS[:1]
        return tuple(view(vae, layout, family, variant=variant) for variant in variants)

    def make_input(self, case: Case) -> Tensor:
        """What the direction of the case is given."""
        return make_input(case, image=self._image)
