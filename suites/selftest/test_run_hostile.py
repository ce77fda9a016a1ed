"""Hooks that mislead, break things, hang or end their process are reported; the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.suites.selftest.running import Ran, here, once, profile, shared

pytestmark = pytest.mark.slow

NARROW = ("--families", "sd", "--directions", "decode", "--scale", "mock")
SIDE = "44x20"
WITH_SIDE_EFFECTS = (
    "changes-globals",
    "eats-memory",
    "ignores-tiling",
    "leaves-hook-on",
    "returns-none",
    "secretly-untiled",
    "wrong-dtype",
)
STUCK = """
import ctypes


class Stuck:
    def __init__(self, net, tile_size, is_decoder):
        pass

    def __call__(self, x):
        # PyDLL keeps the interpreter's lock, and no signal wakes a thread that waits for a mutex.
        library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
"""
CASES = 5
"""How many mock cases of a family and direction are in float32."""


def _profile(folder: Path, name: str) -> Path:
    specimen = SPECIMENS[name]
    return profile(
        folder,
        name,
        specimen.entry,
        kind=specimen.kind,
        layout=specimen.layout,
        grade=specimen.grade["exact"],
    )


@pytest.fixture(scope="session")
def with_side_effects(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of the hooks that return, and a sound hook after them."""

    def make(out: Path) -> Ran:
        files = [_profile(out.parent, name) for name in WITH_SIDE_EFFECTS]
        files.append(profile(out.parent, "sound"))
        hooks = [f"--profile={file}" for file in files]
        return here(out, *hooks, *NARROW, "-k", SIDE, "-n", 0)

    return once(shared(tmp_path_factory), "with-side-effects", make)


@pytest.fixture(scope="session")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of hooks that do not return, and a sound hook after them."""

    def make(out: Path) -> Ran:
        (out.parent / "stuck.py").write_text(STUCK)
        files = [
            profile(out.parent, "stuck", "stuck.py:Stuck"),
            _profile(out.parent, "crashes-process"),
            _profile(out.parent, "hangs"),
            profile(out.parent, "sound"),
        ]
        hooks = [f"--profile={file}" for file in files]
        some = "mock-ldm and not float16 and (crashes or 10x10)"
        return here(out, *hooks, *NARROW, "-k", some, "--timeout", 2)

    return once(shared(tmp_path_factory), "deadly", make)


@pytest.mark.parametrize("name", WITH_SIDE_EFFECTS)
def test_a_hook_that_is_not_sound_fails_by_the_check_that_is_for_it(
    with_side_effects: Ran, name: str
) -> None:
    assert with_side_effects.verdict(name).code == 1
    killer = with_side_effects.record(hook=name, check=SPECIMENS[name].killed_by)
    assert killer["status"] in ("failed", "error")
    assert killer["message"]


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("returns-none", "output_shape", "None"),
        ("wrong-dtype", "output_dtype", "float16"),
        ("changes-globals", "left_behind", "default dtype was changed from float32 to float64"),
        ("leaves-hook-on", "left_behind", "encoder.forward"),
        ("eats-memory", "live_bytes", "still allocated"),
        ("ignores-tiling", "tiles_ran", "did not run"),
        ("secretly-untiled", "peak_vram", "1.00 x untiled"),
    ],
)
def test_the_record_says_what_happened(
    with_side_effects: Ran, name: str, check: str, words: str
) -> None:
    assert words in with_side_effects.record(hook=name, check=check)["message"]


def test_a_hook_that_did_not_tile_is_an_error_and_never_a_pass(with_side_effects: Ran) -> None:
    for name in ("ignores-tiling", "secretly-untiled"):
        assert with_side_effects.record(hook=name, check="tiles_ran")["status"] == "error"
        assert with_side_effects.record(hook=name, check="peak_vram")["status"] == "failed"
        assert with_side_effects.verdict(name).code == 1


def test_nothing_of_what_they_do_reaches_the_next_hook(with_side_effects: Ran) -> None:
    assert with_side_effects.code == 1
    assert with_side_effects.verdict("sound").holds
    assert len(with_side_effects.records(hook="sound")) > 15


def test_a_crash_is_told_on_its_case_and_the_run_goes_on(deadly: Ran) -> None:
    assert deadly.code == 1
    died = deadly.records(hook="crashes-process", check="completes", status="failed")
    assert len(died) == CASES
    assert all("was ended by signal 9 (SIGKILL)" in record["message"] for record in died)
    assert deadly.verdict("sound").holds
    assert len(deadly.records(hook="sound")) > 15


def test_nothing_of_a_case_that_nobody_saw_passes(deadly: Ran) -> None:
    for hook in ("crashes-process", "stuck"):
        records = deadly.records(hook=hook)
        assert {record["status"] for record in records} == {"failed", "error"}
        assert {r["check"] for r in records if r["status"] == "failed"} == {"completes"}


def test_a_hook_stuck_in_c_is_killed(deadly: Ran) -> None:
    message = deadly.record(hook="stuck", check="completes")["message"]
    assert "waiting for 2 s without using the CPU" in message


def test_a_hook_that_waits_for_ever_is_killed(deadly: Ran) -> None:
    message = deadly.record(hook="hangs", check="completes")["message"]
    assert "waiting for 2 s without using the CPU" in message
    assert deadly.verdict("hangs").code == 1


@pytest.mark.parametrize("name", ["hangs", "crashes-process"])
def test_a_deadly_specimen_fails_by_the_check_named_for_it(deadly: Ran, name: str) -> None:
    assert deadly.records(hook=name, check=SPECIMENS[name].killed_by, status="failed")


def test_no_test_goes_without_a_record(deadly: Ran) -> None:
    checks = {record["check"] for record in deadly.records(hook="sound")}
    for hook in ("stuck", "hangs"):
        assert {record["check"] for record in deadly.records(hook=hook)} == checks
