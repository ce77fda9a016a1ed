"""The shell steps of the GitHub action do as its inputs say, beside a stand-in for the command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "vae-compat" / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STAND_IN = """#!/usr/bin/env bash
words=("${@// /_}")  # so that one word is told from two
printf '%s\\n' "${words[*]}" >> "$CALLS"
[[ $1 == annotate ]] && { echo "::error file=tiled.py,line=3::no"; exit 0; }
[[ $CODE == 2 ]] && exit 2
for (( i = 1; i < $#; i++ )); do
  [[ ${!i} == --out ]] && { j=$((i + 1)); out=${!j}; }
  [[ ${!i} == --history ]] && { j=$((i + 1)); out=${!j}/runs/20260101T000000Z-abc; }
done
mkdir -p "$out"
echo "# told" > "$out/summary.md"
echo "{}" > "$out/results.json"
exit $CODE
"""


PYTHON = """#!/usr/bin/env bash
if [[ "$2" == *shlex* ]]; then exec {} "$@"; fi
echo ${{PRINTED-sim}}
"""


def loaded(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


STEPS: dict[str, dict[str, Any]] = {
    step["name"]: step for step in loaded(ACTION)["runs"]["steps"] if "run" in step
}


class Job:
    """Runs the steps of the action as a job of GitHub does."""

    def __init__(self, folder: Path, code: int, **inputs: str) -> None:
        self.folder = folder
        self.inputs = {
            name: told.get("default", "") for name, told in loaded(ACTION)["inputs"].items()
        } | inputs
        (folder / "bin").mkdir()
        command = folder / "bin" / "vae-compat"
        command.write_text(STAND_IN)
        command.chmod(0o755)
        python = folder / "bin" / "python"
        python.write_text(PYTHON.format(sys.executable))
        python.chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "CODE": str(code),
            "CALLS": str(folder / "calls"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        }
        (folder / "output").touch()
        self.printed = ""

    @property
    def outputs(self) -> dict[str, str]:
        lines = (self.folder / "output").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    @property
    def summary(self) -> str:
        file = self.folder / "summary"
        return file.read_text() if file.exists() else ""

    def step(self, name: str, **more: str) -> int:
        """Run a step; returns its exit code."""
        step = STEPS[name]
        assert step["shell"] == "bash"
        told = {key: self._filled(value) for key, value in step.get("env", {}).items()}
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.folder,
            env=self.environment | told | more,
            capture_output=True,
            text=True,
        )
        self.printed = done.stdout
        assert done.stderr == ""
        return done.returncode

    def all(self) -> int:
        """The exit code of the job."""
        assert self.step("Judge") == 0
        assert self.step("Summarise") == 0
        return self.step("Conclude")

    def _filled(self, value: str) -> str:
        def of(found: re.Match[str]) -> str:
            kind, name = found["path"].split(".", 1)
            if kind == "inputs":
                return str(self.inputs[name])
            return self.outputs[name.rpartition(".")[2]] if kind == "steps" else f"<{name}>"

        return re.sub(r"\$\{\{ (?P<path>[\w.-]+) \}\}", of, value)


@pytest.mark.parametrize(
    ("code", "verdict", "ends"),
    [(0, "holds", 0), (1, "fails", 1), (2, "refused", 1), (3, "stopped", 1), (137, "stopped", 1)],
)
def test_the_verdict_is_the_job_s(tmp_path: Path, code: int, verdict: str, ends: int) -> None:
    job = Job(tmp_path, code)
    assert job.all() == ends
    assert job.outputs["verdict"] == verdict
    assert job.outputs["report"] == "vae-compat-report"
    assert job.calls[0] == ("run --profile vae-compat.toml --device sim --out vae-compat-report")
    assert ("# told" in job.summary) == (verdict != "refused")


def test_every_input_reaches_the_command(tmp_path: Path) -> None:
    given = {"profile": "a b.toml", "tiers": "minimum", "device": "cpu", "shard": "1/4"}
    more = "--full -k 'x and y'"
    job = Job(tmp_path, 0, **given, cache="kept", arguments=more, report="r")
    assert job.all() == 0
    assert job.calls[0] == (
        "run --profile a_b.toml --device cpu --out r --tier minimum --shard 1/4 --cache kept"
        " --full -k x_and_y"
    )
    assert job.outputs["artifact"] == "vae-compat-report-1-of-4"


def test_a_gpu_that_is_not_there_is_replaced(tmp_path: Path) -> None:
    job = Job(tmp_path, 0, device="auto")
    job.environment["PRINTED"] = "cuda"
    assert job.step("Judge") == 0
    job.environment["PRINTED"] = "sim"
    assert job.step("Judge") == 0
    assert ["--device cuda" in job.calls[0], "--device sim" in job.calls[1]] == [True, True]


def test_failures_become_annotations(tmp_path: Path) -> None:
    job = Job(tmp_path, 1)
    assert job.step("Judge") == job.step("Summarise") == 0
    assert job.printed == "::error file=tiled.py,line=3::no\n"
    assert job.calls[1] == "annotate vae-compat-report"


def test_a_run_that_leaves_nothing_says_so_and_shows_no_older_report(tmp_path: Path) -> None:
    job = Job(tmp_path, 2)
    (tmp_path / "vae-compat-report").mkdir()
    (tmp_path / "vae-compat-report" / "summary.md").write_text("of yesterday")
    (tmp_path / "vae-compat-report" / "results.json").write_text("{}")
    assert job.all() == 1
    assert job.summary == ""
    assert len(job.calls) == 1


def test_shards_may_fail_for_the_whole_to_decide_and_no_more(tmp_path: Path) -> None:
    for code, ends in ((0, 0), (1, 0), (2, 1), (3, 1)):
        folder = tmp_path / str(code)
        folder.mkdir()
        assert Job(folder, code, fail="false").all() == ends


def test_shards_are_merged(tmp_path: Path) -> None:
    job = Job(tmp_path, 1, merge="shards/a shards/b")
    assert job.all() == 1
    assert job.calls[0] == "merge shards/a shards/b --out vae-compat-report"


def test_the_report_of_a_night_is_that_of_the_last_run(tmp_path: Path) -> None:
    (tmp_path / "nights" / "runs" / "20250101T000000Z-old").mkdir(parents=True)
    job = Job(tmp_path, 0, history="nights")
    assert job.all() == 0
    assert "--history nights" in job.calls[0]
    assert "--out" not in job.calls[0]
    assert job.outputs["report"] == "nights/runs/20260101T000000Z-abc"


def test_inputs_are_never_part_of_a_script() -> None:
    scripts = [step["run"] for step in STEPS.values()]
    for file in WORKFLOWS:
        jobs = loaded(file)["jobs"].values()
        scripts += [step["run"] for job in jobs for step in job.get("steps", ()) if "run" in step]
    assert len(scripts) > len(STEPS)
    assert not [script for script in scripts if "${{" in script]


def test_workflows_pass_inputs_that_are_there() -> None:
    offered = {
        "./.github/workflows/vae-compat.yml": loaded(WORKFLOWS[-1])[True]["workflow_call"],
        "./.github/actions/vae-compat": loaded(ACTION),
        "./.vae-compat/.github/actions/vae-compat": loaded(ACTION),
    }
    used = 0
    for file in WORKFLOWS:
        for job in loaded(file)["jobs"].values():
            for step in (job, *job.get("steps", ())):
                if step.get("uses") in offered:
                    assert step["with"].keys() <= offered[step["uses"]]["inputs"].keys()
                    used += 1
    assert used == 4


def test_the_hooks_of_pre_commit_are_commands() -> None:
    from vae_compat.front.cli import parser

    for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()):
        program, *arguments = [*hook["entry"].split(), *hook["args"]]
        assert program == "vae-compat"
        assert parser().parse_args(arguments).profile == ["vae-compat.toml"]
