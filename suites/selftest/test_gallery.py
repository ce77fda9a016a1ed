"""The gallery shows five published bugs, each by a hook that has it, or there is no gallery."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vae_compat.checks.parity import check_parity
from vae_compat.contracts.cases import Case, Scale
from vae_compat.errors import StoppedError
from vae_compat.judge import judge
from vae_compat.reports.gallery import __main__ as command
from vae_compat.reports.gallery import running
from vae_compat.reports.gallery.bugs import BUGS, FAMILY
from vae_compat.reports.gallery.page import plates, to_html
from vae_compat.reports.pictures import making
from vae_compat.reports.pictures.exhibit import write
from vae_compat.reports.results import Results
from vae_compat.subject.profile import load_profile
from vae_compat.suites.selftest.measure_fakes import a_case, an_observation
from vae_compat.suites.selftest.running import here
from vae_compat.suites.selftest.test_reports import run

CASE = a_case(family=FAMILY, scale=Scale.TRAINED, height=20, width=20, tile=8)


def shown(folder: Path, case: Case = CASE) -> Results:
    """A run in which every hook of the gallery shifts a part of the picture."""
    records = []
    for bug in BUGS:
        observation = an_observation(case, change=_stepped)
        records += judge(case.id, [check_parity(observation)], hook=bug.hook)
        pictures = making.shown(bug.hook, observation)
        assert pictures is not None
        write(pictures, folder)
    return run(*records)


def _stepped(output):
    output[..., 64:] += 0.1
    return output


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """Such a run, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("pictured")
    return shown(folder), folder


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.hook)
def test_each_bug_is_that_of_a_known_bad_hook_and_its_profile_loads(bug, tmp_path) -> None:
    assert bug.specimen.killed_by
    file = tmp_path / "bug.toml"
    file.write_text(bug.profile)
    profile = load_profile(file)
    assert profile.hook.entry == bug.specimen.entry
    assert profile.claims.families == (FAMILY,)


def test_there_are_five_and_each_names_its_source() -> None:
    assert len({bug.hook for bug in BUGS}) == len(BUGS) == 5
    assert all("/" in bug.source for bug in BUGS)


def test_the_page_has_untiled_hook_and_difference_of_every_bug(
    pictured: tuple[Results, Path],
) -> None:
    page = to_html(plates(BUGS, *pictured))
    for bug in BUGS:
        assert f'id="{bug.hook}"' in page
        assert bug.source in page
    for words in ("what the VAE gives untiled", "what the hook gives", "their difference"):
        assert page.count(f'alt="{words}') >= len(BUGS)
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_bug_that_shows_nothing_is_no_gallery(pictured: tuple[Results, Path]) -> None:
    results, folder = pictured
    fewer = [record for record in results.records if record.hook != BUGS[2].hook]
    with pytest.raises(StoppedError, match=BUGS[2].hook):
        plates(BUGS, run(*fewer), folder)


def test_hooks_that_cannot_be_judged_end_the_command(tmp_path, monkeypatch, capsys) -> None:
    def stopped(*_: object) -> Path:
        raise StoppedError("the hooks of the gallery could not be judged: why")

    monkeypatch.setattr(command, "run", stopped)
    monkeypatch.setattr("sys.argv", ["gallery", str(tmp_path / "out")])
    assert command.main() == 3
    assert "why" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_shows_the_bugs_as_the_harness_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        """The same command line in this process, which has everything imported."""
        assert command[:4] == [sys.executable, "-m", "vae_compat", "run"]
        folder = Path(command[command.index("--out") + 1])
        ran = here(folder, *command[4:])
        return subprocess.CompletedProcess(command, ran.code, ran.out, ran.err)

    monkeypatch.setattr(running, "subprocess", SimpleNamespace(run=run_here))
    page = command.write_gallery(tmp_path / "out").read_text()
    assert page.count('alt="what the VAE gives untiled') >= len(BUGS)
    assert page.count("<strong>parity</strong>") + page.count("<strong>bounds</strong>") >= 3
