"""index.html: complete, self-contained, small, and usable by everyone."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vae_compat.contracts.cases import Scenario
from vae_compat.front import cli
from vae_compat.judge import Record
from vae_compat.reports.html.page import page_of
from vae_compat.reports.html.rendering import to_html, write_page
from vae_compat.reports.log import End, Entry, Writer
from vae_compat.reports.pictures.album import Album
from vae_compat.reports.results import Results
from vae_compat.reports.why import whys
from vae_compat.suites.selftest.measure_fakes import an_observation
from vae_compat.suites.selftest.test_pictures import CASE, found, stepped
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record, run
from vae_compat.suites.selftest.test_reports_clips import memory

VOID = frozenset({"meta", "link", "img", "input", "br"})
PAGE_BYTES = 5 * 2**20


class Document(HTMLParser):
    """The elements of a page, and whether each one is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all_of(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def a_run(folder: Path) -> Results:
    """A run with pictures: a failing case, a known failure, a clip, and what passes."""
    album, records = Album(folder), []
    for case, size in ((CASE, 0.1), (replace(CASE, family="flux", height=32), 0.0)):
        observation = an_observation(case, change=stepped(size))
        told = found(observation, "hook")
        album.consider(told, observation)
        records.append(told)
    records += [
        record(status="failed", check="seams", message="a seam", repeat="vae-compat run --case x"),
        record(case_id("qwen"), "xfailed", reason="blends on purpose", link="https://example.org"),
        record(case_id("sdxl"), "failed", check="refusal", claimed=False, message="a picture"),
        record(check="work", metrics={"flops_ratio": 1.25}),
        record(check="transfers", metrics={"waits": 1234, "pageable_bytes": 7 * 2**19}),
        memory(),
    ]
    return run(
        *records,
        against="the run of 2026-01-01T00:00:00+00:00 (hook of no commit)",
        regressions=("hook parity[x]: grade was exact, is close",),
        mended=("hook seams[y]: status was failed, is passed",),
        drift=("hook: peak_bytes moved in 3 records",),
        diagnosis=("hook: attention is computed per tile",),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    return write_page(a_run(folder), folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(page: str) -> Document:
    return Document(page)


def test_the_page_says_what_the_run_showed(document: Document) -> None:
    for words in (
        "The gate does not hold",
        "Held against the run of 2026-01-01T00:00:00+00:00 (hook of no commit): 1 worse, 0 new"
        " failures, 1 better, 1 moved within what is tolerated.",
        "grade was exact, is close",
        "status was failed, is passed",
        "peak_bytes moved in 3 records",
        "attention is computed per tile",
        "blends on purpose",
        "vae-compat run --case x",
        "1.25",
        "Counted on the simulated accelerator",
        "1,234",
        "3.50",
        "MiB on the device",
        "torch 2.13.0",
    ):
        assert words in document.said, words


def test_what_failed_and_what_passed_have_pictures(document: Document) -> None:
    alts = [image["alt"] for image in document.all_of("img")]
    assert alts.count("what the hook gives") == 2
    assert alts.count("their difference in false colours") == 2
    assert "12.8 times as bright" in document.said  # 20 of 255 levels


def test_nothing_is_loaded_from_anywhere(page: str, document: Document) -> None:
    for tag, attributes in document.elements:
        for name in ("src", "href", "data", "poster", "srcset", "action"):
            told = attributes.get(name, "#")
            assert told.startswith(("#", "data:")), (tag, told)
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes), tag
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_policy_of_the_page_allows_its_own_script_and_style_alone(
    page: str, document: Document
) -> None:
    (policy,) = [a["content"] for a in document.all_of("meta") if "http-equiv" in a]
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        told = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{told}'" in policy
    assert policy.startswith("default-src 'none'")


def test_everything_has_a_name_for_those_who_do_not_see_it(document: Document) -> None:
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in document.all_of("a")]
    labels = [name for _, a in document.elements for name in a.get("aria-labelledby", "").split()]
    assert {*links, *labels} <= set(ids)
    assert all(image["alt"] and image["width"] for image in document.all_of("img"))
    for drawing in document.all_of("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing.get("aria-label")
    for button in document.all_of("button"):
        copies = "copy" in button.get("class", "").split()
        assert not copies or button["aria-label"].startswith("Copy the command")
    (root,) = document.all_of("html")
    assert root["lang"] == "en"
    assert [a.get("id") for a in document.all_of("main")] == ["main"]


def test_every_field_of_the_filters_is_within_a_label(page: str) -> None:
    fields = re.findall(r"<(?:select|input)[^>]*>", page)
    assert fields
    for field in fields:
        before = page[: page.index(field)]
        assert before.rfind("<label") > before.rfind("</label>"), field


def test_every_id_that_the_script_asks_for_is_there(page: str, document: Document) -> None:
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    ids = {a["id"] for _, a in document.elements if "id" in a}
    asked = set(re.findall(r'one\("([\w-]+)"\)', script))
    assert asked <= ids
    fields = {name for name in ids if name.startswith("filter-")}
    assert {"filter-text", "filter-family", "filter-direction", "filter-status"} <= fields


def test_all_cases_of_a_group_are_listed_each_with_its_command(tmp_path: Path) -> None:
    cases = [case_id(size=size) for size in range(40, 80, 8)]
    bad = [record(case, "failed", repeat=f"vae-compat run --case {case}") for case in cases]
    said = Document(to_html(page_of(run(*bad), tmp_path))).said
    for case in cases:
        assert f"vae-compat run --case {case}" in said
    assert "All 5 cases" in said


def test_groups_come_by_how_far_off_they_are_and_the_unclaimed_last(tmp_path: Path) -> None:
    def failing(family: str, psnr: float, **more: object) -> Record:
        return record(case_id(family), "failed", metrics={"psnr": psnr}, **more)

    groups = page_of(
        run(
            failing("sd", 10.0, claimed=False),
            failing("sdxl", 40.0),
            failing("flux", 20.0),
            failing("sd3", math.nan),
        ),
        tmp_path,
    ).groups
    assert [view.group.family for view in groups] == ["sd3", "flux", "sdxl", "sd"]


def test_a_large_run_makes_a_page_of_bounded_size(tmp_path: Path) -> None:
    def records() -> Iterator[Record]:
        for number in range(2000):
            case = case_id(size=40 + number)
            yield record(case, "failed", check=f"check_{number % 200}", message="m" * 9000)

    text = to_html(page_of(run(*records()), tmp_path))
    assert len(text.encode()) < PAGE_BYTES
    assert "more groups: see results.json" in text


def test_the_page_is_the_same_for_the_same_run(page: str, tmp_path: Path) -> None:
    assert write_page(a_run(tmp_path), tmp_path).read_text(encoding="utf-8") == page


def test_a_page_without_records_or_pictures_says_so(tmp_path: Path) -> None:
    said = Document(to_html(page_of(run(), tmp_path))).said
    assert "No case ran." in said


def test_a_hook_that_holds_and_one_that_crashes_are_told_in_a_sentence() -> None:
    told = whys(
        [
            record(grade="exact"),
            record(hook="other", status="failed", check="completes", message="raised TypeError"),
            record(hook="other", status="failed", metrics={"psnr": 12.0}, message="off"),
            record(case_id(scenario=Scenario.TWICE), "failed", hook="third", message="a " * 2000),
        ]
    )
    assert [why.holds for why in told] == [True, False, False]
    assert told[0].sentence == "keeps everything that it claims, at worst grade exact"
    assert told[1].sentence == "sd decode: raised TypeError; 1 more group of failures"
    assert len(told[2].sentence) < 400


@pytest.mark.parametrize("found", [True, False])
def test_the_page_is_opened_where_that_is_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: bool,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda page: asked.append(page) or found)
    writer = Writer(tmp_path, HEADER, 1, None)
    writer.append(Entry(record()))
    writer.finish(End("2026-01-01T00:01:00+00:00"))
    writer.close()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert asked == []
    assert cli.main(["report", str(tmp_path), "--open"]) == 0
    page = tmp_path / "index.html"
    assert asked == [page.as_uri()]
    assert capsys.readouterr().err == (
        "" if found else f"vae-compat: found no browser: open {page}\n"
    )
