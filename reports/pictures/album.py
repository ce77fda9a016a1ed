"""Keeps the pictures of a run few: of every group of failures, those of one case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vae_compat.contracts.cases import Direction, Scale
from vae_compat.judge import Outcome, Record
from vae_compat.measure.observation import Observed
from vae_compat.vocabulary import BAD

from . import making
from .exhibit import Depth, depth_of, name_of, remove, write


class Group(NamedTuple):
    """Records that are shown by one case, the one that shows most."""

    hook: str
    check: str
    """Empty for what passed."""
    family: str
    direction: str
    known: bool
    """Whether they are known failures."""


@dataclass
class Album:
    """The exhibits that this process has written into the folder of the run.

    Which case shows most does not depend on the order of the cases, nor on the process that judged
    them: reports take that of what all processes have kept.
    """

    folder: Path
    _kept: dict[Group, Depth] = field(default_factory=dict)
    """The depth of the exhibit that each group has."""

    def consider(self, record: Record, observed: Observed) -> None:
        """Keep pictures of a record if they show more than those its group has so far.

        Raises whatever drawing or writing raises; a run goes on without the pictures.
        """
        group = _group_of(record, observed)
        if group is None:
            return
        depth = depth_of(observed.case.id, making.psnr_of(observed))
        before = self._kept.get(group)
        if before is not None and before <= depth:
            return
        holders = Counter((each.hook, kept.case) for each, kept in self._kept.items())
        if not holders[record.hook, observed.case.id]:
            shown = making.shown(record.hook, observed)
            if shown is None:
                return
            write(shown, self.folder)
        self._kept[group] = depth
        if before is not None and holders[group.hook, before.case] == 1:
            remove(name_of(group.hook, before.case), self.folder)


def _group_of(record: Record, observed: Observed) -> Group | None:
    """What a record is shown for; ``None`` where there is nothing to see."""
    case = observed.case
    known = record.status == Outcome.XFAILED
    if record.status in BAD or known:
        if not making.differs(observed):
            return None
        return Group(record.hook, record.check, case.family, case.direction, known)
    plain = case.scale is not Scale.PROBE and case.scenario is None and case.must_tile
    plain = plain and case.given is None
    passed = record.status == Outcome.PASSED and record.check == "parity"
    if passed and plain and record.claimed and case.direction is Direction.DECODE:
        return Group(record.hook, "", case.family, case.direction, False)
    return None
