"""A hook that ended the process in which it is performed is known to the next process."""

from __future__ import annotations

from pathlib import Path

import pytest

from vae_compat.contracts.promise import Promise
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.scenarios.asking import Ask
from vae_compat.scenarios.performed import Called
from vae_compat.scenarios.runners import PERFORMING, GaveNone, InProcess
from vae_compat.suites.selftest.measure_fakes import a_case


def test_a_case_that_ended_its_process_is_not_tried_again_until_it_is_forgotten(
    tmp_path: Path,
) -> None:
    ask = Ask(a_case(), Promise(), seconds=20.0)
    mark = tmp_path / PERFORMING / "hook" / ask.case.id
    mark.parent.mkdir(parents=True)
    mark.touch()
    runners = InProcess({}, Fixtures(), tmp_path)
    with pytest.raises(GaveNone, match="died"):
        runners.perform("hook", ask, Called)

    runners.forget("hook")
    with pytest.raises(KeyError):  # there is no such hook, and nothing has ended
        runners.perform("hook", ask, Called)
    assert not mark.exists()
