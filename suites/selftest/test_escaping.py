"""Text that comes from a hook is shown in reports and on the terminal, and does nothing else."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from vae_compat.reports import junit, rendering, summary, table
from vae_compat.reports.escaping import html, markdown, shown, xml
from vae_compat.reports.html.page import page_of
from vae_compat.reports.html.rendering import to_html
from vae_compat.reports.log import Writer, concluded, read_log
from vae_compat.suites.selftest.mixed import in_two
from vae_compat.suites.selftest.running import Ran, shared
from vae_compat.suites.selftest.test_reports import HEADER, record, run
from vae_compat.text import printable

pytestmark = pytest.mark.slow

NASTY = (
    "\x1b[2J\x1b]0;title\x07gate holds\x00\r\x08\x9b1m\x7f"
    "\u202edesrever\u2066\u2028next\u2029\ufeff\u200b"
    "\udc80\udcff <b>&\"'</b> | `code` ](javascript:x) ]]> \ufffe"
)
DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202e\u2066\ufeff\ufffe\ud800-\udfff]"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain \u00fc \u4e2d \U0001f600", "plain \u00fc \u4e2d \U0001f600"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\x00b\x7f\x9b", "a\\x00b\\x7f\\x9b"),
        ("\udc80", "\\udc80"),
        ("\u202e\u2028", "\\u202e\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        (" two\n  lines\r\n\t", "two lines"),
        ("x" * 12, "xxxxxxxxxx ... (2 more characters)"),
        (12, "12"),
    ],
)
def test_hidden_characters_become_visible(text: object, expected: str) -> None:
    assert printable(text, 10 if text == "x" * 12 else 100) == expected


def test_lines_are_kept_where_they_are_wanted() -> None:
    assert printable("a\r\n\tb\x1b\x0b", lines=True) == "a\n\tb\\x1b\\x0b"


def test_every_text_in_data_is_made_printable() -> None:
    told = shown(run(record(message="\x1b\n", metrics={"n\x00": 1, "text": "\udc80"})))
    assert told.records[0].message == "\\x1b\n"
    assert told.records[0].metrics == {"n\\x00": 1, "text": "\\udc80"}
    assert told.header == HEADER


def test_markdown_reads_as_the_text() -> None:
    assert markdown("parity[sd-1x1]: a_b 1 < 2") == "parity[sd-1x1]: a_b 1 &lt; 2"
    assert markdown("[a](b) ![c][d] `e` \\") == "[a\\](b) ![c\\][d] \\`e\\` \\\\"


def test_xml_and_html_are_read_back_as_the_text() -> None:
    body = xml(NASTY)
    assert ET.fromstring(f'<a b="{body}">{body}</a>').text == printable(NASTY, lines=True)
    assert "<b>" not in html(NASTY)


def nasty(field: str, where: str) -> str:
    """The report of a run in which one field holds arbitrary text."""
    bad = record(status="failed", message="told", repeat="vae-compat run", reason="known", link="l")
    text = NASTY.replace("\r", "") if where == "xml" else NASTY
    records = (replace(bad, **{field: text}), record(status="xfailed", reason=text))
    results = run(*records, diagnosis=(text,), against=text)
    changed = dict.fromkeys(("regressions", "new", "mended", "drift", "notes"), (text,))
    results = replace(results, **changed)
    hooks = tuple(replace(hook, name=text, entry=text, profile=text) for hook in HEADER.hooks)
    results = replace(results, header=replace(HEADER, command=text, selection=text, hooks=hooks))
    render = {
        "text": table.to_text,
        "markdown": summary.to_markdown,
        "xml": junit.to_xml,
        "html": lambda found: to_html(page_of(found, Path("nowhere"))),
    }
    return render[where](results)


@pytest.mark.parametrize("field", ["message", "repeat", "hook", "reason", "link", "check", "case"])
@pytest.mark.parametrize("where", ["text", "markdown", "xml", "html"])
def test_no_report_passes_anything_on(field: str, where: str) -> None:
    text = nasty(field, where)
    assert not DANGEROUS.search(text)
    text.encode("utf-8")
    if where == "xml":
        ET.fromstring(text)
    if where == "html":
        assert "<b>" not in text
        assert "&lt;b&gt;" in text
    if where == "markdown":
        outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
        assert "<b>" not in re.sub(r"(`+)[^`].*?[^`]\1(?!`)", "", outside)


def test_a_record_with_anything_in_it_is_stored_and_read_back(tmp_path: Path) -> None:
    from vae_compat.reports.log import Entry

    writer = Writer(tmp_path, HEADER, 1, None)
    writer.append(Entry(record(message=NASTY)))
    writer.close()
    raw = (tmp_path / "records.jsonl").read_bytes()
    assert raw.isascii()
    log = read_log(tmp_path)
    (entry,) = log.entries.values()
    assert entry.record.message == NASTY
    rendering.write_all(concluded(log, tmp_path), tmp_path, tmp_path / "junit.xml")
    assert json.loads((tmp_path / "results.json").read_text())["records"][0]["message"] == NASTY


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run with a hook whose exception holds what no terminal may get, in a worker."""
    return in_two(shared(tmp_path_factory))


def test_a_message_that_cannot_be_encoded_is_a_failure_of_the_hook(hostile: Ran) -> None:
    assert hostile.code == 1, hostile.out + hostile.err
    (found,) = hostile.records(hook="hostile", check="completes", claimed=True)
    assert found["status"] == "failed"
    assert r"\x1b[2Jgate holds" in found["message"]
    assert len(found["message"]) < 15_000


def test_nothing_of_it_reaches_the_terminal_or_a_report_raw(hostile: Ran) -> None:
    shown = hostile.out.replace("\r", "")
    assert not DANGEROUS.search(shown)
    assert "\\x1b[2Jgate holds" in shown
    folder = Path(hostile.folder)
    reports = (folder / "summary.md", folder / "index.html", folder.parent / "j.xml")
    for file in reports:
        assert not DANGEROUS.search(file.read_text(encoding="utf-8"))
    ET.parse(folder.parent / "j.xml")
