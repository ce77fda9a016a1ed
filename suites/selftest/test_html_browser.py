"""index.html in a browser: nothing complains, and every filter, sort and button works.

Needs Playwright and a Chromium, which this package does not depend on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vae_compat.reports.html.rendering import write_page
from vae_compat.suites.selftest.test_html import a_run

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
GROUPS = ".group:visible"
ROWS = "#all-cases tbody tr:visible"
PATIENCE = 180_000
"""Milliseconds: a busy machine starts a browser slowly."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_page(a_run(folder), folder)


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    """The page, which must end without a complaint."""
    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(file.as_uri())
    yield opened
    assert said == []
    opened.close()


def test_nothing_is_wider_than_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_first_screen_has_the_verdict_the_table_and_the_costs(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    for place in ("h1", ".whys", "#results table", "#costs .bar"):
        box = page.locator(place).first.bounding_box()
        assert box["y"] + box["height"] < 900, place


def test_tall_pictures_leave_room_and_keep_the_grid_on_them(page: Any) -> None:
    sizes = page.evaluate(
        "[...document.querySelectorAll('.laid')].map(each => [each.clientHeight, "
        "each.querySelector('img').clientHeight, each.querySelector('.grid')?.clientHeight])"
    )
    for whole, picture, grid in sizes:
        assert picture <= 28 * 16
        assert whole == picture
        assert grid in (None, picture)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, scheme: str) -> None:
    """Contrast, labels, roles, order of headings: what axe knows, with everything unfolded."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = axe.run(page).response
    serious = [
        (each["id"], node["html"])
        for each in found["violations"]
        for node in each["nodes"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 20


def test_pictures_are_shown(page: Any) -> None:
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.evaluate("for (const each of document.images) each.loading = 'eager'")
    page.wait_for_function("[...document.images].every(each => each.complete)")
    widths = page.evaluate("[...document.images].map(each => each.naturalWidth)")
    assert len(widths) == 12
    assert all(widths)


@pytest.mark.parametrize(
    ("field", "value", "groups", "rows"),
    [
        ("text", "on PURPOSE", 1, 0),
        ("family", "sdxl", 1, 1),
        ("direction", "encode", 0, 0),
        ("status", "known", 1, 1),
    ],
)
def test_filters_leave_what_fits(page: Any, field: str, value: str, groups: int, rows: int) -> None:
    before = page.locator(GROUPS).count(), page.locator(ROWS).count()
    place = f"#filter-{field}"
    page.fill(place, value) if field == "text" else page.select_option(place, value)
    assert (page.locator(GROUPS).count(), page.locator(ROWS).count()) == (groups, rows)
    assert page.inner_text("#shown") == f"{groups} groups and {rows} cases shown"
    page.click("button[type=reset]")
    page.wait_for_function("document.querySelectorAll('.item[hidden]').length === 0")
    assert (page.locator(GROUPS).count(), page.locator(ROWS).count()) == before


def test_groups_and_tables_are_sorted(page: Any) -> None:
    def families() -> list[str]:
        groups = page.locator("#failures > .group")
        return [group.get_attribute("data-family") for group in groups.all()]

    page.select_option("#sort-groups", "family")
    assert families() == sorted(families())
    head = page.locator("#all-cases thead th", has_text="case").locator("button")
    for ascending in (True, False):
        head.click()
        cases = [row.inner_text() for row in page.locator("#all-cases td:nth-child(2)").all()]
        assert cases == sorted(cases, reverse=not ascending)


def test_the_grid_the_theme_and_a_link_to_a_group_answer(page: Any) -> None:
    grid = page.locator(".grid").first
    assert grid.is_visible()
    page.locator(".grid-toggle").first.uncheck()
    assert not grid.is_visible()
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.click("#theme")
    assert page.evaluate(paper) != before
    page.evaluate("location.hash = '#known-1'")
    page.wait_for_function("document.getElementById('known-1').open")


def test_a_button_copies_its_command_or_says_what_it_did(page: Any) -> None:
    button = page.locator(".copy:visible").first
    button.click()
    page.wait_for_function(
        "[...document.querySelectorAll('.copy')].some(b => b.textContent !== 'copy')"
    )
    assert button.inner_text() in ("copied", "selected")
