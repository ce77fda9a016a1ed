"""The command answers quickly, and all wrong use ends in one sentence and exit code 2."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from itertools import chain, combinations
from pathlib import Path

import pytest
from PIL import Image

from vae_compat.contracts.cases import (
    Case,
    Direction,
    Given,
    Layout,
    Mechanism,
    Mode,
    Scale,
    Scenario,
)
from vae_compat.contracts.finding import Phase
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.front import cli
from vae_compat.front.explaining import explain
from vae_compat.front.run import running
from vae_compat.front.selection.options import Options
from vae_compat.reports.results import write
from vae_compat.suites.selftest.running import share_process_for_hooks
from vae_compat.suites.selftest.test_reports import record, run

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    share_process_for_hooks(monkeypatch)


HEAVY = ("torch", "numpy", "diffusers", "rich", "pydantic", "pytest", "jinja2", "PIL")
CASE = "sd-mock-diffusers-decode-exact-40x40t16-b1-f1-float32-sim"
PROFILE = """
[hook]
name = "mine"
entry = "vae_compat.subject.diffusers_tiling:enable"
kind = "vae"
layout = "diffusers"
[claims]
families = ["sd"]
directions = ["decode"]
modes = ["exact"]
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``vae-compat`` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options that runs are called with. Nothing is run."""
    calls: list[Options] = []
    monkeypatch.setattr(running, "set_environment", lambda _: None)
    monkeypatch.setattr(running, "judged", lambda options, *_: calls.append(options))
    monkeypatch.setattr(running.reporting, "tell", lambda *_: 0)
    return calls


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["--version"], ["list", "-h"], ["explain", "parity"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from vae_compat.front.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(' '.join(heavy) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vae-compat" in done.stdout.replace("_", "-")


def test_what_starts_a_run_leaves_torch_to_the_processes_that_judge() -> None:
    program = (
        "import sys, vae_compat.front.run.running\n"
        "sys.exit(' '.join({'torch', 'numpy', 'diffusers'} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def unexplained(parser: argparse.ArgumentParser) -> list[str]:
    """Options and arguments of a command, and of the commands below it, without a help text."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help for choice in action._choices_actions}
            for name, below in action.choices.items():
                found += [] if told.get(name) else [f"{parser.prog} {name}"]
                found += unexplained(below)
        elif not action.help or action.help == argparse.SUPPRESS:
            found.append(f"{parser.prog} {'/'.join(action.option_strings) or action.dest}")
    return found


def test_every_option_has_a_help_text() -> None:
    assert unexplained(cli.parser()) == []


def test_an_option_without_a_help_text_is_found() -> None:
    parser = cli.parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    commands.choices["run"].add_argument("-q", "--quiet")
    commands.choices["list"].add_argument("--hidden", help=argparse.SUPPRESS)
    commands.add_parser("walk", prog="vae-compat walk").add_argument("where")
    assert unexplained(parser) == [
        "vae-compat run -q/--quiet",
        "vae-compat list --hidden",
        "vae-compat walk",
        "vae-compat walk where",
    ]


# Wrong use


def _refused(result: tuple[int, str, str]) -> str:
    """The one sentence of wrong use. Fails if anything else was printed."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("vae-compat: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("", "COMMAND"),
        ("walk", "invalid choice: 'walk'"),
        ("run --familie sd", "unrecognized arguments: --familie sd"),
        ("run --family sd", "unrecognized arguments"),
        ("run --families sdx", "did you mean 'sdxl'"),
        ("run --families ,", "--families is empty"),
        ("run --directions both", "'both' is unknown: give one of encode, decode"),
        ("run --modes exakt", "did you mean 'exact'"),
        ("run --scale huge", "give one of mock, real, probe, trained"),
        ("run --tier top", "give one of minimum, recommended, advanced"),
        ("run --device gpu", "invalid choice: 'gpu'"),
        ("run --kind thing --hook a:b", "invalid choice: 'thing'"),
        ("run --layout thing --hook a:b", "invalid choice: 'thing'"),
        ("run --host thing --hook a:b", "comfyui"),
        ("run --layout ldm", "--layout describes --hook"),
        ("run --hook a:b --profile diffusers", "exclude each other"),
        ("run --hook nothere.py:Hook", "nothere.py"),
        ("run --hook vae_compat.matrix:nothing", "no attribute 'nothing'"),
        ("run --hook vae_compat.matrix", "FILE_OR_MODULE:ATTRIBUTE"),
        ("run --profile diffuser", "did you mean 'diffusers'"),
        ("run --profile nothere.toml", "no profile nothere.toml"),
        ("run --comfyui nothere", "no ComfyUI checkout"),
        ("run --seed minus", "invalid whole number value: 'minus'"),
        ("run --seed -1", "'-1'"),
        ("run -n two", "invalid whole number value: 'two'"),
        ("run --timeout soon", "invalid number of seconds value: 'soon'"),
        ("run --timeout 0", "not above 0"),
        ("run --timeout nan", "not above 0"),
        ("run --timeout inf", "up to 1000000 seconds"),
        ("run --timeout 1e12", "up to 1000000 seconds"),
        ("run --out=", "--out is empty"),
        ("run --junitxml=", "--junitxml is empty"),
        ("run --junitxml .", "'.' is no file"),
        ("run --junitxml pyproject.toml/junit.xml", "'pyproject.toml' is a file, no folder"),
        ("run --hook vae_compat.matrix:Geometry --kind vae", "is a class"),
        ("run --weights sd=an/id --scale mock", "no case of sd at real scale"),
        (f"run --weights sd=an/id --profile diffusers --case {CASE}", "no case of sd at real"),
        (f"run --profile diffusers --device cpu --case {CASE}", "no case of diffusers"),
        ("run --case parity", "no case id"),
        (f"run --case {CASE.replace('sd-', 'sf-')}", "'sf' in "),
        (
            f"run --profile diffusers --case {CASE.replace('40x40', '51x48')}",
            "no case of diffusers",
        ),
        ("run -k (", "no expression of pytest"),
        ("run --weights vae.safetensors", "FAMILY=PATH_OR_ID"),
        ("run --weights sx=vae.safetensors", "'sx' is unknown"),
        ("run --weights sd=nothere.safetensors", "neither a file"),
        ("run --image nothere.png", "no file 'nothere.png'"),
        ("run --against nothere.json", "nothere.json"),
        ("run --cache=", "--cache is empty"),
        ("run --cache pyproject.toml", "'pyproject.toml' is a file, no folder"),
        ("run --weights sd=an/id --full --cache somewhere", "give a file or a folder"),
        ("run --shard 3/2", "'3/2' is no shard: give K/N"),
        (f"run --shard 1/2 --case {CASE}", "a single case has no parts"),
        ("nightly --shard 1/2", "--history and --shard exclude each other"),
        ("run --profile diffusers --scale real --families sd --shard 1/9", "split it into 3 or"),
        ("merge nothere --out whole", "cannot read 'nothere'"),
        ("merge nothere", "--out"),
        ("list --families sdx", "did you mean 'sdxl'"),
        ("list --profile diffuser", "did you mean 'diffusers'"),
        ("list fammilies", "invalid choice: 'fammilies'"),
        ("explain", "WORD"),
        ("explain exakt", "did you mean 'exact'"),
        ("explain zzz", "`vae-compat list` names checks"),
        ("init --hook a.b:C --families sd,foo", "'foo' is no family"),
        ("init --hook a.b:C --source foo", "'foo' is not OWNER/NAME"),
        ("explain sd-mock", "no case id"),
    ],
)
def test_wrong_use_is_one_sentence(
    command: Command, given: list[Options], arguments: str, match: str
) -> None:
    assert match in _refused(command(*arguments.split()))
    assert given == []


def test_files_of_the_wrong_kind_are_wrong_use(
    command: Command, given: list[Options], tmp_path: Path
) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("this is text")
    file = str(text)
    assert "no safetensors" in _refused(command("run", "--weights", f"sd={file}"))
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "no safetensors" in _refused(command("run", "--weights", f"sd={folder}"))
    assert "cannot be read as a picture" in _refused(command("run", "--image", file))
    assert "no JSON" in _refused(command("run", "--against", file))
    assert "is a file" in _refused(command("run", "--out", file))
    assert given == []


@pytest.mark.parametrize("how", ["folder", "file", "link"])
def test_a_run_is_not_held_against_what_it_overwrites(
    command: Command, given: list[Options], tmp_path: Path, how: str
) -> None:
    """Repeated, it would be held against its own regression, and pass."""
    earlier = write(run(record()), tmp_path / "out")
    link = tmp_path / "link.json"
    link.hardlink_to(earlier)
    told = {"folder": earlier.parent, "file": earlier, "link": link}[how]
    before = earlier.read_bytes()
    for asked in (("run", "--out", str(tmp_path / "out")), ("report", str(tmp_path / "out"))):
        assert "is where this run writes" in _refused(command(*asked, "--against", str(told)))
    assert given == []
    assert earlier.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("[claims]", "[claim]"), "claim"),
        (('families = ["sd"]', ""), "claims nothing"),
        (('modes = ["exact"]', "modes = []"), "claims nothing"),
        (('name = "mine"', 'name = "mine"\ncolour = "red"'), "colour"),
        (('families = ["sd"]', 'families = ["sx"]'), "sx"),
        (("[hook]", "[hook"), "TOML"),
    ],
)
def test_a_wrong_profile_is_wrong_use(
    command: Command,
    given: list[Options],
    tmp_path: Path,
    change: tuple[str, str],
    match: str,
) -> None:
    file = tmp_path / "vae-compat.toml"
    file.write_text(PROFILE.replace(*change))
    assert match in _refused(command("run", "--profile", str(file)))
    assert given == []


@pytest.mark.parametrize(
    ("known", "fits"),
    [
        ("parity[sd-*]", True),
        (f"parity[{CASE}]", True),
        ("parity[sdxl-mock-ldm-*]", False),
        ("paritty[sd-*]", False),
    ],
)
def test_a_known_failure_must_be_about_some_check_of_some_case(
    command: Command, given: list[Options], tmp_path: Path, known: str, fits: bool
) -> None:
    file = tmp_path / "vae-compat.toml"
    file.write_text(f'{PROFILE}[[known_failures]]\nid = "{known}"\nreason = "it is known"\n')
    result = command("run", "--profile", str(file))
    if fits:
        assert result[0] == 0, result
        assert len(given) == 1
    else:
        assert f"'{known}' matches no check" in _refused(result)
        assert given == []


def test_a_defect_of_the_harness_is_not_the_hooks(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(running, "validate", broken)
    monkeypatch.setattr(running, "set_environment", lambda _: None)
    code, _, err = command("run", "--profile", "diffusers")
    assert code == 3
    assert "RuntimeError: broken" in err


# What a run is asked for


def test_options_reach_the_run(command: Command, given: list[Options], tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    code, _, err = command(
        *("run", "--profile", "diffusers", "--families", "sd, qwen", "--scale=mock,real"),
        *("--tier", "minimum", "--full", "--seed", "7", "-k", "parity", "-n", "3", "-x"),
        *("--image", str(picture), "--timeout", "2.5", "--out", str(tmp_path / "out")),
        *("--junitxml", str(tmp_path / "junit.xml"), "-v"),
    )
    assert code == 0, err
    (options,) = given
    assert options == Options(
        profile=("diffusers",),
        families=("sd", "qwen"),
        scales=("mock", "real"),
        tiers=("minimum",),
        full=True,
        seed=7,
        expression="parity",
        workers=3,
        fail_fast=True,
        image=picture,
        timeout=2.5,
        out=tmp_path / "out",
        junitxml=tmp_path / "junit.xml",
        verbose=True,
    )
    assert options.tiers_to_run == ("minimum",)


def test_one_case_meets_its_checks_of_every_tier(
    command: Command, given: list[Options], tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PROFILE)
    _, listed, _ = command("list", "--ids", "--tier", "advanced", "--profile", str(file))
    case = listed.split()[0]
    for more, tiers in ((), cli.TIERS), (("--tier", "minimum"), ("minimum",)):
        code, _, err = command("run", "--profile", str(file), "--case", case, *more)
        assert code == 0, err
        assert given.pop().tiers_to_run == tiers


@pytest.mark.parametrize("device", ["sim", "cpu"])
def test_a_single_case_takes_its_device_from_its_id(
    command: Command, given: list[Options], device: str
) -> None:
    case = CASE.removesuffix("sim") + device
    code, _, err = command("run", "--profile", "diffusers", "--case", case)
    assert code == 0, err
    assert given[0].device == device


def test_a_hook_by_flags_brings_no_default_profile(command: Command, given: list[Options]) -> None:
    entry = "vae_compat.subject.diffusers_tiling:enable"
    code, _, err = command("run", "--hook", entry, "--kind", "vae")
    assert code == 0, err
    assert (given[0].hook, given[0].kind, given[0].profiles) == (entry, "vae", ())


def test_a_single_case_may_be_any_of_the_whole_matrix_and_runs_alone(
    command: Command, given: list[Options]
) -> None:
    code, _, err = command("run", "--profile", "diffusers", "--case", CASE)
    assert code == 0, err
    assert given[0].whole_matrix
    assert running.worker_count(given[0], 1) == 1


def test_there_are_no_more_processes_than_cases() -> None:
    assert running.worker_count(Options(workers=50), 3) == 3
    assert running.worker_count(Options(workers=2), 3) == 2
    assert running.worker_count(Options(workers=0), 3) == 0
    assert running.worker_count(Options(), 1) == 1


# list and explain


def test_list_names_the_cases_of_a_run(command: Command) -> None:
    code, out, _ = command("list", "--profile", "diffusers", "--families=sd", "--directions=decode")
    assert code == 0
    heading, *cases = out.splitlines()
    ids = [line.split()[0] for line in cases]
    assert heading.startswith(f"hook diffusers: {len(ids)} cases")
    assert all(explain.parse_case(name).id == name for name in ids)
    assert all(name.startswith("sd-") and "-decode-" in name for name in ids)
    _, plain, _ = command(
        "list", "--ids", "--profile=diffusers", "--families=sd", "--directions=decode"
    )
    assert plain.splitlines() == ids


def test_list_marks_what_is_not_claimed(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "vae-compat.toml"
    file.write_text(PROFILE)
    _, out, _ = command("list", "--profile", str(file))
    by_family = [line for line in out.splitlines() if line.strip().startswith("qwen-")]
    assert by_family
    assert all("not claimed" in line for line in by_family)
    decodes = [
        line for line in out.splitlines() if line.strip().startswith("sd-") and "-decode-" in line
    ]
    assert decodes
    assert not any("not claimed" in line for line in decodes)


def test_list_names_what_a_hook_offers_and_does_not_claim(command: Command, tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text("def enable(vae, use_quadtree=False): ...\n")
    file = tmp_path / "vae-compat.toml"
    file.write_text(PROFILE.replace("vae_compat.subject.diffusers_tiling", "hook.py"))
    narrowed = ("--families=sd", "--directions=decode", "--modes=quadtree")
    _, out, _ = command("list", "--profile", str(file), *narrowed)
    _, line = out.splitlines()
    assert "-quadtree-" in line
    assert "not claimed" in line


def test_list_names_families_and_hooks(command: Command) -> None:
    _, out, _ = command("list", "families")
    assert [line.split()[0] for line in out.splitlines()] == list(FAMILIES)
    _, out, _ = command("list", "hooks")
    assert "diffusers" in [line.split()[0] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("exact", "float64 truth"),
        ("attention", "attention is computed per tile"),
        ("qwen", "causal feature caches"),
        ("floor", "the largest of nine draws"),
        ("exact", "Plain tiles of one size"),
        ("advanced", "clips, caches, sequences"),
        ("falls back", "it computes whole planes and takes as much memory as untiled"),
        ("streams", "each with a cache list of its own"),
        ("split", "Of `cache`. Causal coders run in tiles"),
        ("fallback", "Of `cache`. Causal coders run untiled"),
        ("parks", "offloaded between the chunks of a clip"),
        ("inference_mode", "Of `context`. ``torch.inference_mode()``"),
        ("channels_last", "whose channels lie innermost in memory"),
        ("kind", "What the entry is: forward, vae, function, ranks."),
        ("function", "Of `kind`. ``entry(vae, x, direction, **settings)`` returns the result."),
        ("layout", "Which module names the hook expects: diffusers, ldm, wan."),
        ("host", "comfyui or a1111"),
        ("a1111", "Of `host`."),
        ("known_failures", "One that passes fails the run"),
        ("known failures", "One that passes fails the run"),
        ("context", "Under which of torch's switches"),
        ("coders", "On which coders it works"),
        (CASE, "40 x 40 latent pixels (320 x 320 image pixels)"),
        (CASE.replace("mock", "mock.slice"), "mock, input slice"),
        (f"parity[{CASE}]", "more than one tile has to run"),
        ("sd-mock-ldm-encode-exact-10x10t16-b1-f1-float32-sim", "tile_size=128"),
    ],
)
def test_explain_tells_what_a_word_means(command: Command, word: str, expected: str) -> None:
    code, out, err = command("explain", word)
    assert (code, err) == (0, "")
    assert expected in out


@pytest.mark.parametrize("words", [Scenario, Given, Phase])
def test_every_scenario_input_and_phase_is_explained(words: type[StrEnum]) -> None:
    assert explain.member_docs(words).keys() == set(words)
    assert all(len(text) > 10 for text in explain.member_docs(words).values())


def test_a_scenario_that_shares_its_name_with_a_check_is_explained_with_it(
    command: Command,
) -> None:
    _, out, _ = command("explain", "tile_size")
    assert out.startswith("check tile_size\n\n")
    assert "scenario tile_size\n\nOne input in tiles of two sizes." in out


def test_list_shows_the_cases_and_checks_of_a_tier(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PROFILE)

    def listed(*words: str) -> list[str]:
        _, out, _ = command("list", *words, "--profile", str(file))
        return out.splitlines()

    of_tier = {tier: listed("--ids", "--tier", tier) for tier in cli.TIERS}
    assert all(of_tier.values())
    assert set().union(*of_tier.values()) == set(listed("--ids"))
    assert all(explain.parse_case(case).scenario for case in of_tier["advanced"])
    assert not any(explain.parse_case(case).scenario for case in of_tier["minimum"])
    checks = [line.split()[0] for line in listed("checks", "--tier", "advanced")]
    assert "clip_completes" in checks
    assert "parity" not in checks


def test_the_shards_of_a_listing_are_what_a_run_would_run(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PROFILE)
    hook = ("list", "--ids", "--profile", str(file))
    _, whole, _ = command(*hook, "--tier", "minimum,recommended")
    parts = [command(*hook, "--shard", f"{number}/3")[1].split() for number in (1, 2, 3)]
    assert all(parts)
    assert sorted(chain.from_iterable(parts)) == sorted(whole.split())
    shards = {case: number for number, part in enumerate(parts) for case in part}
    truths = {case: explain.parse_case(case).truth_id for case in shards}
    assert all(
        shards[one] == shards[other]
        for one, other in combinations(shards, 2)
        if truths[one] == truths[other]
    )


def test_explain_gives_the_docstring_of_a_check(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "check_docs", lambda: {"parity": "Is it right?"})
    _, out, _ = command("explain", "parity")
    assert out.startswith("check parity\n\nIs it right?\n")
    assert command("explain", "check_parity")[1] == out


@pytest.mark.parametrize("check", explain.check_docs())
def test_explain_shows_the_known_bad_hooks_that_a_check_has_to_catch(
    command: Command, check: str
) -> None:
    _, out, _ = command("explain", check)
    hooks = [specimen for specimen in SPECIMENS.values() if specimen.killed_by == check]
    assert out.count("\n  hook vae_compat.") == len(hooks)
    for hook in hooks:
        assert f"{hook.name}\n  hook {hook.entry}\n  case {hook.shows_on}\n" in out


def test_every_check_that_runs_is_known_by_name() -> None:
    from vae_compat.checks.registry import CHECKS

    docs = explain.check_docs()
    assert sorted(docs) == sorted(check.name for check in CHECKS)
    assert all(text != "No description." for text in docs.values())


def test_a_case_id_read_back_is_the_case() -> None:
    case = Case(
        family="wan22",
        scale=Scale.PROBE,
        layout=Layout.WAN,
        direction=Direction.ENCODE,
        mode=Mode.COLOR_FIX,
        height=39,
        width=41,
        tile=16,
        batch=2,
        frames=3,
        dtype="bfloat16",
        device="cuda",
        mechanism=Mechanism.CAUSAL_CACHE,
    )
    assert explain.parse_case(case.id) == case


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("mock", "probe"), "a probe has a mechanism"),
        (("mock", "mock.halo"), "is no scenario"),
        (("mock", "probe.hallo"), "did you mean 'halo'"),
        (("mock", "mock.flit"), "did you mean 'flat'"),
        (("mock", "probe.halo.flat"), "is no scenario"),
        (("40x40", "0x48"), "start at 1"),
        (("float32", "float33"), "no dtype"),
        (("sim", "gpu"), "no device"),
    ],
)
def test_a_wrong_part_of_a_case_id_is_named(change: tuple[str, str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        explain.parse_case(CASE.replace(*change))
