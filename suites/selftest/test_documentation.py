"""Every word of a report is explained, and the pages that say so have links that lead somewhere."""

from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from vae_compat.checks.metrics import METRICS
from vae_compat.checks.registry import BY_NAME
from vae_compat.contracts.cases import Layout, Mechanism, Scenario
from vae_compat.contracts.finding import Grade, Phase
from vae_compat.errors import UsageError
from vae_compat.front import cli, documentation
from vae_compat.front.adopting.parametrizing import REPORT
from vae_compat.front.explaining import explain
from vae_compat.front.selection.options import SECONDS
from vae_compat.isolation.limits import TIMES_UNTILED
from vae_compat.judge import Outcome
from vae_compat.reports.digest import MARKS
from vae_compat.reports.html.page import COSTS
from vae_compat.reports.schema import NAMES, stored
from vae_compat.subject.profile import HOSTS, Kind, load_profile
from vae_compat.subject.schema import _Claims, _Hook, _Profile

ROOT = Path(__file__).parents[2]
NOX = (ROOT / "noxfile.py").read_text(encoding="utf-8")
HEADS = {
    *COSTS.values(),
    *("outcome", "case", "grade", "PSNR", "VRAM", "FLOPs", "repeat", "where"),
    *("family", "encode", "decode", "cache", "x time", "n/m", "-"),
}
"""At the head of tables, and in their cells."""


def test_every_word_of_a_report_is_explained() -> None:
    known = explain.words()
    assert known.keys() == explain.PLURALS.keys()
    assert known["check"].keys() == set(BY_NAME)
    assert known["grade"].keys() == set(Grade)
    assert known["status"].keys() >= {*Outcome, *MARKS.values()}
    assert known["phase"].keys() == set(Phase)
    assert known["scenario"].keys() == set(Scenario)
    assert known["mechanism"].keys() == set(Mechanism)
    assert known["column"].keys() >= HEADS
    assert known["claim"].keys() >= _Claims.model_fields.keys()
    keys = {*_Hook.model_fields, *_Profile.model_fields}
    assert known["key"].keys() >= {*keys, *Kind, *Layout, *HOSTS}
    for docs in known.values():
        assert all(len(text) > 10 for text in docs.values())
    assert all(f"metric {name} [" in explain.explain(name) for name in METRICS)


def test_pages_name_all_there_is() -> None:
    pages = documentation.pages(ROOT)
    assert set(pages) == {page for _, page in documentation.NAV}
    for name, check in BY_NAME.items():
        assert f"### {name}\n\n{check.description}" in pages["checks.md"]
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.unit} | " in pages["metrics.md"]
    for docs in explain.words().values():
        for word in docs:
            assert f"| `{word}` | " in pages["words.md"] or word in BY_NAME
    for name in cli.commands():
        assert f"## {name}\n" in pages["commands.md"]
    for kind in ("Header", "HookEntry", "Record", "End"):
        for field in stored("records")["$defs"][kind]["properties"]:
            assert f"| `{field}` | " in pages["stored.md"]


def test_a_folder_that_is_no_checkout_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no README\.md"):
        documentation.build(tmp_path, tmp_path / "out")


README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Every line of README that calls the command, in words."""
    lines = "\n".join(blocks("sh")).splitlines()
    told = [shlex.split(line, comments=True) for line in lines]
    return [words for words in told if words[:1] == ["vae-compat"]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_what_readme_says_to_type_is_understood(words: list[str]) -> None:
    cli.parser().parse_args(words[1:])


def test_every_session_that_is_named_is_there() -> None:
    made = {
        name.replace("_", "-") for name in re.findall(r"^def (\w+)\(session", NOX, re.MULTILINE)
    }
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = [re.findall(r"[\w-]+", some) for some in re.findall(r"nox -s ((?:[\w-]+ ?)+)", text)]
    named = {words[0] for words in told}
    assert {"compat", "tests", "docs"} <= named
    assert named <= made


def test_options_that_readme_names_are_there() -> None:
    known = {word for parser in cli.commands().values() for word in parser.format_help().split()}
    known = {word.strip("[],").partition("=")[0] for word in known}
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", README))
    elsewhere = {REPORT, "--counts-alone", "--published", "--recorded", "--accept", "--last"}
    assert len(options) > 15
    assert options - elsewhere <= known


def test_the_profile_in_readme_is_a_profile(tmp_path: Path) -> None:
    first, *more = blocks("toml")
    file = tmp_path / "vae-compat.toml"
    file.write_text(first + "".join(more), encoding="utf-8")
    found = load_profile(file)
    assert found.known_failures
    assert found.claims.bounds is not None


def test_code_and_facts_in_readme_are_right() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")
    assert f"A call may take {SECONDS:.0f} s of CPU time, or {TIMES_UNTILED:.0f} times" in README
    for name in ("ratio", "band_rms", "interior_rms", "area_share"):
        assert name in METRICS
        assert f"`{name}`" in README


class Page(HTMLParser):
    """What a page links to and loads, and the places in it that can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.places: set[str] = {"", "#"}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.places |= {told[name] for name in ("id", "name") if name in told}
        where = told.get("href", told.get("src"))
        if where is not None:
            (self.links if tag == "a" else self.loaded).add(where)


@pytest.mark.slow
def test_the_documentation_is_built_and_every_link_leads_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    monkeypatch.setattr(documentation, "GALLERY", "no_such_module")  # it has a test of its own
    documentation.build(ROOT, tmp_path)
    pages = {file: Page(file) for file in tmp_path.rglob("*.html")}
    assert len(pages) > len(documentation.NAV)
    followed = 0
    for file, page in pages.items():
        assert not any(where.startswith(("http", "//")) for where in page.loaded), file
        for link in (*page.links, *page.loaded):
            target, _, place = link.partition("#")
            if target.startswith("http") or link == "/" or file.name == "404.html":
                continue
            there = (file.parent / unquote(target)).resolve() if target else file
            assert there.is_file(), (file.name, link)
            assert there not in pages or unquote(place) in pages[there].places, (file.name, link)
            followed += 1
    assert followed > 100
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in (name for names in documentation.API.values() for name in names):
        assert f'id="vae_compat.{name}"' in api
    for name in NAMES.values():
        assert (tmp_path / name).is_file()
