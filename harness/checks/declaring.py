"""How a check is declared: a function that answers, its tier, and the cases that it is for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vae_compat.checks.conditions import Condition
from vae_compat.checks.wording import deviation, nothing_to_judge
from vae_compat.contracts.cases import Case
from vae_compat.contracts.finding import Finding, Grade, Metrics, Status, Tier
from vae_compat.contracts.promise import Promise
from vae_compat.measure.observation import Observed

_PREFIX = "check_"


@dataclass(frozen=True)
class Answer:
    """What the function of a check returns: a finding without the check's name and tier."""

    status: Status
    got: str = ""
    should: str = ""
    where: str = ""
    why: str = ""
    """Why there was nothing to judge."""
    blocked_by: str | None = None
    """The check that says more about that."""
    grade: Grade | None = None
    metrics: Metrics = field(default_factory=dict)


def passed(metrics: Metrics | None = None, *, grade: Grade | None = None) -> Answer:
    """Everything is as it should be."""
    return Answer(Status.PASSED, grade=grade, metrics=metrics or {})


def failed(
    got: str,
    should: str,
    where: str = "",
    *,
    grade: Grade | None = None,
    metrics: Metrics | None = None,
) -> Answer:
    """The result differs from what it should be."""
    return Answer(Status.FAILED, got, should, where, grade=grade, metrics=metrics or {})


def not_judged(
    why: str,
    *,
    blocked_by: str | None = None,
    grade: Grade | None = None,
    metrics: Metrics | None = None,
) -> Answer:
    """There was nothing to judge, which counts as an error and never as a pass."""
    return Answer(
        Status.NOT_JUDGED, why=why, blocked_by=blocked_by, grade=grade, metrics=metrics or {}
    )


@dataclass(frozen=True)
class Check:
    """A declared check. Calling it with an observation gives its finding."""

    name: str
    tier: Tier
    answer: Callable[[Any], Answer]
    """Takes what its cases have observed: an ``Observation``, or what a scenario has seen."""
    when: Condition
    """The cases that it is for."""
    informs: bool = False
    """Whether it only puts numbers into the record, so that it can never fail."""

    def __call__(self, observed: Observed) -> Finding:
        """Judge an observation."""
        answer = self.answer(observed)
        return Finding(
            self.name,
            self.tier,
            answer.status,
            _message(answer, observed),
            answer.grade,
            answer.metrics,
            answer.blocked_by,
        )

    def applies(self, case: Case, promise: Promise) -> bool:
        """Whether it is for a case, given what the profile says of that."""
        return self.when(case, promise)

    @property
    def description(self) -> str:
        """What it demands of a hook."""
        return inspect.getdoc(self.answer) or ""


def check(
    *, tier: Tier, when: Condition, informs: bool = False
) -> Callable[[Callable[[Any], Answer]], Check]:
    """Declare a function ``check_<name>(observation) -> Answer`` as the check ``<name>``."""

    def declare(function: Callable[[Any], Answer]) -> Check:
        name = function.__name__.removeprefix(_PREFIX)
        return Check(name, tier, function, when, informs)

    return declare


def _message(answer: Answer, observed: Observed) -> str:
    match answer.status:
        case Status.PASSED:
            return ""
        case Status.FAILED:
            return deviation(observed, answer.got, answer.should, answer.where)
        case Status.NOT_JUDGED:
            return nothing_to_judge(observed, answer.why, answer.blocked_by)
