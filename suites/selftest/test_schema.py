"""What is stored is as the published schemas say, and every word in it is explained."""

from __future__ import annotations

import ast
import dataclasses
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vae_compat import checks
from vae_compat.checks import metrics
from vae_compat.checks.metrics import METRICS, metric_of
from vae_compat.front.explaining.explain import COLUMNS, check_docs, explain
from vae_compat.judge import Outcome
from vae_compat.reports import digest, junit, log, results, schema
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record, run
from vae_compat.vocabulary import Grade

NUMBERS = {"psnr": float("inf"), "ratio": 1.5, "peak_bytes": 7, "vram_ratio": None, "phase": "x"}
RECORDS = [
    record(case_id(size=32), grade="exact", metrics=NUMBERS),
    record(case_id(size=40), "xfailed", message="why", reason="known", link="https://a.b"),
    record(case_id(size=48), "error", judged=False, blocked_by="completes", repeat="vae-compat"),
]


def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    kind = jsonschema.validators.validator_for(schema.stored(name))
    kind.check_schema(schema.stored(name))
    return kind(schema.stored(name))


@pytest.mark.parametrize("name", schema.NAMES)
def test_the_stored_schema_is_the_one_of_the_classes(name: str) -> None:
    """Else: ``python -m vae_compat.reports.schema`` writes it again."""
    assert schema.stored(name) == schema.made(name)


def stored_in(folder: Path) -> tuple[Any, list[Any]]:
    """``results.json`` and the lines of ``records.jsonl`` of a run with everything in it."""
    writer = log.Writer(folder, HEADER, 4, None)
    for each in RECORDS:
        writer.append(log.Entry(each))
    writer.append(log.Entry(record(case_id(size=56), "error"), harness=True))
    writer.finish(log.End(finished="2026-01-01T00:01:00+00:00"))
    writer.close()
    found = dataclasses.replace(
        run(*RECORDS),
        diagnosis=("why",),
        against="an earlier run",
        regressions=("worse",),
        new=("fresh",),
        mended=("better",),
        drift=("moved",),
        notes=("other",),
    )
    file = results.write(found, folder)
    lines = (folder / log.FILE_NAME).read_text().splitlines()
    return json.loads(file.read_text()), list(map(json.loads, lines))


def test_results_and_records_are_as_their_schemas_say(tmp_path: Path) -> None:
    whole, lines = stored_in(tmp_path)
    validator("results").validate(whole)
    for line in lines:
        validator("records").validate(line)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("records", 0, "status"), "fine"),
        (("records", 0, "grade"), "good"),
        (("records", 0, "metrics"), {"ratio": [1]}),
        (("records", 0, "claimed"), "yes"),
        (("header", "seed"), "0"),
        (("verdict", "code"), 9),
        (("regressions",), None),
    ],
)
def test_a_schema_refuses_what_no_run_writes(
    tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    whole, _ = stored_in(tmp_path)
    inner = whole
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    assert not validator("results").is_valid(whole)
    del inner[place[-1]]
    if place[-1] != "metrics":
        assert not validator("results").is_valid(whole)


def test_properties_of_junit_are_json() -> None:
    suites = ET.fromstring(junit.to_xml(run(*RECORDS)))
    cases = list(suites.iter("testcase"))
    assert len(cases) == len(RECORDS)
    for case, told in zip(cases, RECORDS, strict=True):
        found = {
            each.get("name"): json.loads(each.get("value", "")) for each in case.iter("property")
        }
        assert found["metrics"] == results.jsonable(dict(told.metrics))
        assert (found["status"], found["grade"]) == (told.status, told.grade)


# Every word -------------------------------------------------------------------------------------


def emitted() -> Iterator[str]:
    """Names of the metrics that checks put into records, read from their source."""
    for file in Path(checks.__path__[0]).glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield from _of_function(node)


def _of_function(function: ast.FunctionDef) -> Iterator[str]:
    names = {
        ast.unparse(loop.target): [ast.literal_eval(each) for each in loop.iter.elts]
        for loop in ast.walk(function)
        if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Tuple)
        if all(isinstance(each, ast.Constant) for each in loop.iter.elts)
    } | {
        ast.unparse(loop.target): getattr(metrics, loop.iter.id)
        for loop in ast.walk(function)
        if isinstance(loop, ast.comprehension) and isinstance(loop.iter, ast.Name)
        if hasattr(metrics, loop.iter.id)
    }
    for node in ast.walk(function):
        for given in _mappings(node, function):
            for key in given.keys if isinstance(given, ast.Dict) else [given.key]:
                match key:
                    case None:
                        pass  # of another mapping
                    case ast.Constant(value=str(name)):
                        yield name
                    case ast.Name(id=name):
                        yield from names[name]
                    case ast.JoinedStr(
                        values=[ast.Constant(value=head), ast.FormattedValue() as f]
                    ):
                        yield from (
                            f"{head}{end}" for end in names.get(ast.unparse(f.value), ["0"])
                        )
                    case _:
                        raise AssertionError(f"cannot be read: {ast.unparse(key)}")


def _mappings(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.Dict | ast.DictComp]:
    """Mappings that are metrics: of that type, of the usual name, or given as such."""
    found: list[ast.expr | None] = []
    match node:
        case ast.AnnAssign(annotation=ast.Name(id="Metrics")):
            found.append(node.value)
        case ast.Assign(targets=[ast.Name(id="numbers")]):
            found.append(node.value)
        case ast.keyword(arg="metrics"):
            found.append(node.value)
        case ast.Call(func=ast.Name(id="passed")):
            found += node.args[:1]
        case ast.Return() if ast.unparse(function.returns or ast.Constant(None)) == "Metrics":
            found.append(node.value)
    inner = [part for each in found if isinstance(each, ast.Dict) for part in each.values]
    named = (*found, *(part for part in inner if isinstance(part, ast.DictComp)))
    yield from (each for each in named if isinstance(each, ast.Dict | ast.DictComp))


def test_every_metric_that_checks_can_emit_is_explained_with_its_unit() -> None:
    names = set(emitted())
    assert {"vram_ratio", "ratio_0", "untiled_live_bytes", "error_rms", "band_rms"} <= names
    assert {name for name in names if metric_of(name) is None} == set()
    listed = {metric_of(name)[0] for name in names}
    assert METRICS.keys() - listed == set()
    assert all(metric.unit and metric.text.endswith(".") for metric in METRICS.values())


@pytest.mark.parametrize(
    "word", [*METRICS, "ratio_3", *Grade, *Outcome, *digest.MARKS.values(), *COLUMNS]
)
def test_every_word_of_a_record_and_a_table_is_explained(word: str) -> None:
    told = explain(word)
    assert len(told) > len(word) + 20
    if word in METRICS:
        assert f"[{METRICS[word].unit}]" in told


def test_every_check_is_explained() -> None:
    assert all(text.strip() for text in check_docs().values())


def test_metrics_are_found_in_the_source_of_a_check() -> None:
    (one,) = ast.parse("def f() -> None:\n passed({'a': 1})\n numbers = {'b': 2}").body
    assert isinstance(one, ast.FunctionDef)
    assert sorted(_of_function(one)) == ["a", "b"]
