"""That ``-k`` leaves nothing is told at once, and only where pytest would find the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from vae_compat.errors import UsageError
from vae_compat.front.run import running
from vae_compat.front.run.interrupts import Interrupts
from vae_compat.front.run.running import suites_folder
from vae_compat.front.selection.matching import matches_none
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.validation import validate

NAMES = (
    "test_recommended[parity-reference:sd-mock-ldm-decode-exact-10x10t16-b1-f1-float32-sim]",
    "test_recommended[seams-reference:qwen-mock-wan-encode-exact-44x20t16-b1-f3-float32-sim]",
)


@pytest.mark.parametrize(
    ("expression", "none"),
    [
        ("nosuch", True),
        ("parity and nosuch", True),
        ("parity and qwen", True),
        ("not sd and not qwen", True),
        ("not (parity or seams)", True),
        ("PARITY", False),
        ("parity or nosuch", False),
        ("not nosuch", False),
        ("seams and wan and 44x20t16", False),
        ("decode[", True),
        ("test_recommended[parity", False),
        # What pytest may find elsewhere: in names of files, folders and marks.
        ("test_minimum", False),
        ("suites and nosuch", False),
        ("advanced and nosuch", False),
        ("xfail", False),
    ],
)
def test_what_matches_nothing_is_known(expression: str, none: bool) -> None:
    assert matches_none(expression, NAMES, suites_folder()) is none


def test_a_name_that_pytest_escapes_is_left_to_it() -> None:
    assert not matches_none("nosuch", ["test_minimum[parity-h\u00f6k:sd-mock]"], suites_folder())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "-k 'nosuch' leaves no check of any case: `vae-compat list` names them"),
        ({"shard": "1/2"}, "-k leaves nothing of shard 1/2"),
    ],
)
def test_pytest_is_not_asked_for_what_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str], told: str
) -> None:
    options = Options(
        profile=("reference",), families=("sd",), expression="nosuch", out=tmp_path / "out", **more
    )
    monkeypatch.setattr(pytest, "main", lambda *_, **__: pytest.fail("pytest was asked"))
    with Interrupts() as interrupts, pytest.raises(UsageError, match=told):
        running.judged(options, validate(options), interrupts, tmp_path, 0.0)
    assert not (tmp_path / "out").exists()
