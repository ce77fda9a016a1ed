"""The JSON Schemas of ``results.json`` and of a line of ``records.jsonl``, which the package holds.

``python -m vae_compat.reports.schema`` writes them again where what is stored has changed.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from vae_compat.checks.metrics import METRICS
from vae_compat.judge import Outcome, Record, Verdict
from vae_compat.machine import CudaDescription
from vae_compat.vocabulary import Grade, Tier

from .log import End
from .results import Header, HookEntry, Results

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = {"results": "results.schema.json", "records": "records.schema.json"}
"""The file of each in this package."""


class _Written(GenerateJsonSchema):
    """Schemas of what is written: every field is there, whether it has a default or not."""

    def field_is_required(self, *_: Any, **__: Any) -> bool:
        return True


def results_schema() -> dict[str, Any]:
    """The schema of ``results.json``."""
    made = _schema_of(Results)
    return {"$schema": DIALECT, **made, "title": "vae-compat: results.json"}


def records_schema() -> dict[str, Any]:
    """The schema of every line of ``records.jsonl``."""
    parts = {kind: _schema_of(kind) for kind in (Header, Record, End)}
    defs: dict[str, Any] = {}
    for kind, made in parts.items():
        defs |= made.pop("$defs", {})
        defs[kind.__name__] = made
    selected = {"type": "integer", "description": "Records that the whole run is to have."}

    def line(key: str, kind: type[Any], **more: Any) -> dict[str, Any]:
        told = {key: {"$ref": f"#/$defs/{kind.__name__}"}, **more}
        required = [name for name in told if name != "harness"]
        return {
            "type": "object",
            "properties": told,
            "required": required,
            "additionalProperties": False,
        }

    harness = {"const": True, "description": "The harness failed, and not the hook."}
    return {
        "$schema": DIALECT,
        "title": "vae-compat: a line of records.jsonl",
        "oneOf": [
            line("header", Header, selected=selected),
            line("resumed", Header, selected=selected),
            line("record", Record, harness=harness),
            line("end", End),
        ],
        "$defs": defs,
    }


def stored(name: str) -> dict[str, Any]:
    """A schema as the package holds it: ``results`` or ``records``."""
    text = (resources.files("vae_compat.reports") / NAMES[name]).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def made(name: str) -> dict[str, Any]:
    """The same, made from the classes that are stored."""
    return {"results": results_schema, "records": records_schema}[name]()


def _schema_of(kind: type[Any]) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    found = adapter.json_schema(schema_generator=_Written, mode="serialization")
    defs: dict[str, Any] = found.get("$defs", {})
    for told in (found, *defs.values()):
        docs = _docs_of(told.get("title", ""))
        for name, field in told.get("properties", {}).items():
            field.pop("title", None)
            if name in docs:
                field["description"] = docs[name]
    record = found if kind is Record else defs.get("Record")
    if record is not None:
        _narrow(record["properties"])
    return found


_KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (CudaDescription, End, Header, HookEntry, Record, Results, Verdict)
}


def _docs_of(name: str) -> dict[str, str]:
    """The docstring under each field of a class, in its source."""
    if name not in _KINDS:
        return {}
    (owner,) = ast.parse(inspect.getsource(_KINDS[name])).body
    assert isinstance(owner, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in pairwise(owner.body):
        match node, after:
            case (
                ast.AnnAssign(target=ast.Name(id=field)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[field] = " ".join(text.split())
    return found


def _narrow(record: dict[str, Any]) -> None:
    """Say of a record what its plain types do not: which words and numbers there are."""
    record["status"] |= {"enum": list(map(str, Outcome))}
    record["tier"] |= {"enum": list(map(str, Tier))}
    record["grade"] = {"enum": [*map(str, Grade), None]}
    number = {"type": ["number", "string", "null"]}
    record["metrics"] = {
        "type": "object",
        "description": "null: not measured; 'inf', '-inf' and 'nan' are words.",
        "properties": {
            name: {**number, "description": f"{metric.text} Unit: {metric.unit}."}
            for name, metric in METRICS.items()
            if not name.endswith("_N")
        },
        "additionalProperties": number,
    }


def main() -> None:
    """Write the files."""
    for name, file in NAMES.items():
        text = json.dumps(made(name), indent=1) + "\n"
        Path(__file__).with_name(file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
