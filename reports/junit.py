"""JUnit XML: the records as test cases, for build servers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vae_compat.judge import Record

from .digest import hook_names, statement
from .escaping import shown, xml
from .results import Results, jsonable, write_text

PROPERTIES = ("status", "grade", "claimed", "metrics", "repeat")
"""Fields of a record that a test case has as properties, each as JSON."""
_LONGEST = 100_000
"""Most characters of a property: more than any record has, because cut JSON is no JSON."""
_ELEMENTS = {
    "failed": "failure",
    "xpassed": "failure",
    "error": "error",
    "xfailed": "skipped",
    "skipped": "skipped",
}


def write_junit(results: Results, file: Path) -> Path:
    """Write the records of a run. Raises ``UsageError`` where that is impossible."""
    return write_text(file, to_xml(results))


def to_xml(results: Results) -> str:
    """A suite for each hook, a test case for each record; an unknown status is an error."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', '<testsuites name="vae-compat">']
    told = shown(results)
    for hook in hook_names(told.records):
        records = [record for record in told.records if record.hook == hook]
        elements = Counter(_element(record) for record in records)
        counts = " ".join(
            f'{name}="{elements[element]}"'
            for name, element in (
                ("failures", "failure"),
                ("errors", "error"),
                ("skipped", "skipped"),
            )
        )
        lines.append(
            f'<testsuite name="{xml(hook)}" tests="{len(records)}" {counts}'
            f' timestamp="{xml(told.header.started)}">'
        )
        lines += [line for record in records for line in _case(record)]
        lines.append("</testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _element(record: Record) -> str | None:
    return None if record.status == "passed" else _ELEMENTS.get(record.status, "error")


def _case(record: Record) -> Iterator[str]:
    where = f"{record.hook}.{record.tier}.{record.check}"
    opening = f'<testcase classname="{xml(where)}" name="{xml(record.id)}"'
    element = _element(record)
    yield f"{opening}>"
    yield "<properties>"
    for field in PROPERTIES:
        told = json.dumps(jsonable(getattr(record, field)), allow_nan=False)
        yield f'<property name="{field}" value="{xml(told, _LONGEST)}"/>'
    yield "</properties>"
    if element is None:
        yield "</testcase>"
        return
    message = statement(record)
    if record.reason:
        message = f"{record.reason}: {message}"
    body = f"{record.message}\n{record.repeat or ''}".strip()
    yield f'<{element} message="{xml(message, 500)}">{xml(body)}</{element}>'
    yield "</testcase>"
