"""``init``, ``doctor`` and ``annotate``: what an adopter starts with, and sees on GitHub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from vae_compat.errors import UsageError
from vae_compat.families import installed
from vae_compat.front import cli
from vae_compat.front.adopting import doctor
from vae_compat.front.adopting import init as starting
from vae_compat.front.adopting.init import Wanted, init, look_at
from vae_compat.front.kept_runs import annotating
from vae_compat.judge import Verdict
from vae_compat.reports import results
from vae_compat.subject import describing
from vae_compat.subject.messages import HookFacts
from vae_compat.subject.profile import Mode, load_profile
from vae_compat.suites.selftest.running import SOUND, share_process_for_hooks
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record, run
from vae_compat.vocabulary import ExitCode

# init, of a hook that a runner would describe


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Sets what each kind and host of a hook answers; what is not listed is refused."""
    monkeypatch.chdir(tmp_path)

    def told(parameters: Sequence[str], *fitting: tuple[str | None, str], file: str = "") -> None:
        def described(profile: Any, _: object = None) -> HookFacts:
            spec = profile.hook
            if (spec.host, str(spec.kind)) not in fitting:
                raise UsageError(f"{spec.kind} on {spec.host} does not fit.")
            modes = (Mode.EXACT, Mode.FAST)
            return HookFacts(modes, False, file or None, tuple(parameters))

        monkeypatch.setattr(describing, "described", described)

    return told


@pytest.mark.parametrize(
    ("parameters", "fitting", "kind", "host"),
    [
        (["net", "tile_size"], [(None, "forward")], "forward", None),
        (["vae", "tile_size"], [(None, "forward"), (None, "vae")], "vae", None),
        (["vae", "tile_size"], [(None, "forward")], "forward", None),
        (["vae", "x", "direction"], [(None, "vae"), (None, "function")], "function", None),
        (["net"], [("comfyui", "forward")], "forward", "comfyui"),
    ],
)
def test_kind_and_host_are_those_that_fit(
    hook: Callable[..., None],
    parameters: list[str],
    fitting: list[tuple[str | None, str]],
    kind: str,
    host: str | None,
) -> None:
    hook(parameters, *fitting)
    profile, facts = look_at(Wanted(hook="nodes.tiled:Hook"))
    assert (profile.hook.kind, profile.hook.host) == (kind, host)
    assert facts.parameters == tuple(parameters)


def test_a_hook_that_fits_nothing_is_refused_with_the_reason(hook: Callable[..., None]) -> None:
    hook(["x"])
    with pytest.raises(UsageError, match="does not fit; if it was loaded the wrong way"):
        look_at(Wanted(hook="nodes.tiled:Hook"))
    with pytest.raises(UsageError, match=r"vae on (comfyui|a1111) does not fit$"):
        look_at(Wanted(hook="nodes.tiled:Hook", kind="vae"))


def test_both_files_are_written_and_right(hook: Callable[..., None], tmp_path: Path) -> None:
    hook(["net", "tile_size"], (None, "forward"), file=str(tmp_path / "nodes" / "ti led.py"))
    wanted = Wanted(
        hook="nodes/ti led.py:Hook",
        families=("sd", "qwen"),
        grade="close",
        source="someone/vae-compat@v1",
        profile=Path("nodes/p.toml"),
    )
    assert init(wanted) == ExitCode.HOLDS
    profile = load_profile(Path("nodes/p.toml"))
    assert profile.hook.entry == "ti led.py:Hook"
    assert profile.hook.name == "ti_led.Hook"
    assert profile.claims.families == ("sd", "qwen")
    assert {str(mode): str(grade) for mode, grade in profile.claims.grade.items()} == {
        "exact": "close",
        "fast": "degraded",
    }
    text = Path("nodes/p.toml").read_text()
    assert "It takes net, tile_size." in text
    workflow = yaml.safe_load(Path(".github/workflows/vae-compat.yml").read_text())
    (_, step) = workflow["jobs"]["vae-compat"]["steps"]
    assert step["uses"] == "someone/vae-compat/.github/actions/vae-compat@v1"
    assert step["with"]["profile"] == "nodes/p.toml"


def test_what_is_there_is_replaced_only_by_force(
    hook: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook(["net"], (None, "forward"))
    workflow = tmp_path / ".github" / "workflows" / "vae-compat.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text("theirs")
    arguments = ["init", "--hook", "a.b:C"]
    assert cli.main(arguments) == 2
    assert "is there already: add --force" in capsys.readouterr().err
    assert not (tmp_path / "vae-compat.toml").exists()
    assert workflow.read_text() == "theirs"
    assert cli.main([*arguments, "--no-workflow"]) == 0
    assert workflow.read_text() == "theirs"
    assert cli.main([*arguments, "--force"]) == 0
    assert "jobs:" in workflow.read_text()
    assert "replace OWNER in it" in capsys.readouterr().out


def test_without_a_terminal_nothing_is_asked(
    hook: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    hook(["net"], (None, "forward"))
    assert cli.main(["init"]) == 2
    assert "there is no terminal to ask on: give --hook" in capsys.readouterr().err
    assert cli.main(["init", "--hook", "a.b:C", "--grade", "perfect"]) == 2
    assert "perfect" in capsys.readouterr().err


def test_a_terminal_is_asked_what_was_not_told(hook: Callable[..., None], tmp_path: Path) -> None:
    hook(["net"], (None, "forward"))
    answers = {
        "the hook": "nodes.tiled:Hook",
        "the hook is of kind": "wan",
        "families": "wan21, wan22",
        "what it promises": "lossless",
        "write": "no",
    }
    asked: list[str] = []

    def ask(question: str, default: str, choices: Sequence[str]) -> str:
        asked.append(question)
        answer = max((word for word in answers if question.startswith(word)), key=len)
        assert not choices or answers[answer] in choices
        return answers[answer]

    assert init(Wanted(), ask) == 0
    profile = load_profile(tmp_path / "vae-compat.toml")
    assert (profile.hook.layout, profile.claims.families) == ("wan", ("wan21", "wan22"))
    assert profile.claims.grade[Mode.EXACT] == "lossless"
    assert len(asked) == len(answers)
    assert not (tmp_path / ".github").exists()


@pytest.mark.parametrize(
    ("direct", "told"),
    [
        ({"url": "https://github.com/a/b.git", "vcs_info": {"commit_id": "c1"}}, "a/b@c1"),
        ({"url": "ssh://git@github.com/a/b", "vcs_info": {"commit_id": "c1"}}, "a/b@c1"),
        ({"url": "file:///somewhere", "dir_info": {}}, None),
        ({"url": "https://example.org/a/b.git", "vcs_info": {"commit_id": "c1"}}, None),
    ],
)
def test_where_the_package_came_from_is_where_the_action_is(
    monkeypatch: pytest.MonkeyPatch, direct: dict[str, Any], told: str | None
) -> None:
    class Distribution:
        def read_text(self, _: str) -> str:
            return json.dumps(direct)

    monkeypatch.setattr(metadata, "distribution", lambda _: Distribution())
    assert starting._installed_from() == told


@pytest.mark.slow
def test_a_written_profile_is_one_that_list_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share_process_for_hooks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "--hook", SOUND, "--families", "sd"]) == 0
    assert "kind forward, layout ldm; modes exact" in capsys.readouterr().out
    assert cli.main(["list", "--profile", "vae-compat.toml"]) == 0
    assert "hook resting.RestingTiler: " in capsys.readouterr().out
    assert "It takes net, tile_size, is_decoder." in Path("vae-compat.toml").read_text()


# doctor


def test_what_is_here_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("torch", "diffusers", "cores", "CPU kernels", "sim", "qwen"):
        assert f"\n  {name} " in out
    assert out.endswith("nothing is in the way\n")


def test_what_is_missing_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name == "numpy":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else known(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor, "devices", lambda: iter(()))
    assert doctor.doctor() == 2
    out = capsys.readouterr().out
    assert "MISSING not installed: pip install 'numpy>=2'" in out
    assert "MISSING 1.0 is too old: pip install 'torch>=2.6'" in out
    assert out.endswith("2 in the way: nothing can be judged before that is mended\n")


def test_families_that_are_missing_are_told_and_one_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installed, "left_out", lambda: {"flux2": "flux2 is left out: too old"})
    monkeypatch.setattr(doctor, "_without", lambda name: None if "Wan" in name else "broken")
    facts = list(doctor.families())
    assert [fact.told for fact in facts if fact.subject in ("flux2", "sd")] == [
        "broken",
        "flux2 is left out: too old",
    ]
    assert not any(fact.problem for fact in facts)
    monkeypatch.setattr(doctor, "_without", lambda _: "broken")
    assert list(doctor.families())[-1].problem


def test_a_class_that_is_not_there_is_named() -> None:
    assert "no AutoencoderNone" in (doctor._without("AutoencoderNone") or "")


def test_a_broken_installation_ends_no_doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        yield doctor.Fact("sim", "fine")
        raise OSError("libcudart.so: cannot open")

    monkeypatch.setattr(doctor, "devices", broken)
    monkeypatch.setattr(doctor, "families", lambda: iter(()))
    assert doctor.doctor() == 2
    assert "MISSING OSError: libcudart.so: cannot open" in capsys.readouterr().out


# annotate


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., list[str]]:
    """The annotations of records about a hook in ``nodes/tiled.py``."""
    (tmp_path / "nodes").mkdir()
    file = tmp_path / "nodes" / "tiled.py"
    file.write_text("import os\n\n\nclass Hook:\n    class Inner:\n        pass\n")

    def annotations(*found: Any, entry: str = "Hook", **changes: Any) -> list[str]:
        entry = results.HookEntry("hook", f"{file}:{entry}", "forward", "ldm")
        told = run(*found, header=dataclasses.replace(HEADER, hooks=(entry,)), **changes)
        return list(annotating.commands(told, tmp_path))

    return annotations


def test_a_failure_is_shown_where_the_hook_is_defined(judged: Callable[..., list[str]]) -> None:
    found = record(status="failed", message="50% off\r\nat: all, really", repeat="vae-compat run")
    assert judged(found, record(status="passed")) == [
        "::error file=nodes/tiled.py,line=4,title=hook%3A FAIL parity%3A sd decode (1 case)::"
        "50%25 off%0Aat: all, really%0Arepeat: vae-compat run"
    ]
    assert "line=5" in judged(found, entry="Hook.Inner")[0]
    assert "line=1" in judged(found, entry="Imported")[0]


def test_a_place_in_the_hook_s_file_is_better(
    judged: Callable[..., list[str]], tmp_path: Path
) -> None:
    told = f"got KeyError: 'a'; at /lib/torch.py:9; at {tmp_path}/nodes/tiled.py:6; repeat: x"
    assert "file=nodes/tiled.py,line=6," in judged(record(status="failed", message=told))[0]


def test_a_hook_outside_of_the_repository_has_no_place(
    judged: Callable[..., list[str]], tmp_path: Path
) -> None:
    found = run(record(status="failed", message="no"))
    (line,) = annotating.commands(found, tmp_path / "nodes")
    assert "file=" not in line
    (line,) = judged(record(status="failed"), verdict=Verdict(ExitCode.FAILS, "1 failed"))
    assert line.startswith("::error file=")


def test_more_than_github_shows_is_counted(judged: Callable[..., list[str]]) -> None:
    many = [record(case_id(), "failed", check=f"check{n}") for n in range(15)]
    lines = judged(*many)
    assert len(lines) == annotating.MOST
    assert lines[-1] == "::error title=vae-compat::and 6 more: see the summary"
    assert len(judged(*many[:10])) == 10


def test_a_run_without_a_verdict_and_a_regression_are_shown(
    judged: Callable[..., list[str]],
) -> None:
    lines = judged(
        record(), verdict=Verdict(ExitCode.HARNESS, "a worker died"), regressions=("slower",)
    )
    assert lines == [
        "::error title=vae-compat came to no verdict::a worker died",
        "::error title=worse than before::slower",
    ]


def test_annotations_of_a_folder_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write(run(record(status="failed", message="no")), tmp_path)
    assert cli.main(["annotate", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("::error ")
    assert cli.main(["annotate", str(tmp_path / "none")]) == 2
