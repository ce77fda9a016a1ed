"""What a run says about itself: the command that repeats a case, and what was selected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vae_compat.front import cli
from vae_compat.front.run import workers
from vae_compat.front.selection import subjects
from vae_compat.front.selection.options import Options
from vae_compat.suites.selftest.running import here, profile

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"device": "cpu", "seed": 7, "timeout": 0.5},
        {"image": Path("a picture.png"), "comfyui": Path("ComfyUI"), "timeout": 123456.789},
        {"weights": ("sd=an/id", "flux=vae.safetensors")},
    ],
)
@pytest.mark.parametrize("hook", [None, "tiled.py:Hook"])
def test_the_command_of_one_case_says_all_that_it_depends_on(
    hook: str | None, given: dict[str, Any]
) -> None:
    options = Options(profile=() if hook else ("mine",), hook=hook, **given)
    flags = options.subject_flags("mine")
    assert flags[:2] == (["--hook", hook] if hook else ["--profile", "mine"])
    again = cli.options_of(cli.parser().parse_args(["run", *flags]))
    assert replace(again, kind=None) == options
    assert len(flags) == 2 + 2 * bool(hook) + 2 * (len(given) + ("weights" in given))


def test_options_are_handed_to_other_processes_whole() -> None:
    filled = Options(
        profile=("a", "b"),
        comfyui=Path("somewhere"),
        families=("sd",),
        weights=("sd=an/id",),
        image=Path("a picture.png"),
        seed=3,
        timeout=0.1,
        workers=2,
        fail_fast=True,
        resume=Path("there"),
    )
    assert Options.from_json(filled.to_json()) == filled
    assert Options.from_json(Options().to_json()) == Options()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "default"),
        ({"tiers": ("recommended", "minimum")}, "default"),
        ({"tiers": ("minimum",)}, "default; tiers minimum"),
        ({"full": True, "case": "sd-mock"}, "full; case sd-mock"),
        ({"case": "sd-mock", "tiers": ("minimum",)}, "default; tiers minimum; case sd-mock"),
        (
            {"families": ("sd", "qwen"), "expression": "parity"},
            "default; families sd,qwen; -k parity",
        ),
    ],
)
def test_everything_that_narrowed_a_run_is_part_of_its_selection(
    given: dict[str, Any], told: str
) -> None:
    assert Options(**given).described_selection == told


def test_a_narrower_run_is_held_only_against_what_it_ran(tmp_path: Path) -> None:
    case = "sd-mock-ldm-decode-exact-17x17t16-b1-f1-float32-sim"
    hook = ("--profile", profile(tmp_path, "sound"), "--case", case, "-n", 0)
    earlier = here(tmp_path / "a", *hook, "-k", "finite or completes or output_shape")
    assert earlier.code == 0, earlier.out
    file = tmp_path / "a" / "results.json"
    for option, word in (("-k", "finite"), ("--tier", "minimum")):
        narrow = ("-k", "finite or completes or output_shape") if option == "--tier" else ()
        ran = here(tmp_path / "b", *hook, *narrow, option, word, "--against", file)
        assert ran.code == 0, ran.out
        assert ran.results["regressions"] == []
        assert f"{option.lstrip('-')}" in ran.results["header"]["selection"]


def test_a_worker_prepares_the_run_as_the_command_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(profile=("reference",), families=("sd",), scales=("mock",), seed=3)
    (told,) = subjects.profiles(options)
    found = (subjects.HookUnderTest(*told, subjects.Looked(("exact",), None, None)),)
    first = workers.prepared(options, found, tmp_path, frozenset())
    first.began = 12.5
    (known, *left) = first.items("parity")
    finished = frozenset({(known.subject, known.case.id, "parity")})
    config = SimpleNamespace(workerinput={})
    workers.give(
        config.workerinput,
        workers.given_to_all(tmp_path, first, found, finished),
    )
    json.dumps(config.workerinput).encode("ascii")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    given = workers.given(config)
    assert given is not None
    joined = workers.join(given)
    assert (joined.options, joined.key, joined.folder) == (options, first.key, tmp_path)
    assert joined.began == first.began
    assert list(joined.items("parity")) == left
    assert joined.processes == 2
    assert workers.given(SimpleNamespace()) is None
