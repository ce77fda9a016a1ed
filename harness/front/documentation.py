"""The documentation, as pages of HTML: ``python -m vae_compat.front.documentation OUT``.

README, CONTRIBUTING and CHANGELOG of the current folder as they are; the Python API from
docstrings; every check, metric and word of a report, and the fields of what is stored, from the
same places as ``vae-compat explain`` and the JSON Schemas. MkDocs makes pages of all that, and
refuses links that lead nowhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from vae_compat.checks.metrics import METRICS
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.front import cli
from vae_compat.front.ending import answered
from vae_compat.front.explaining import explain
from vae_compat.reports.schema import NAMES, stored

OWN = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
"""Files of the repository, and the pages that they become."""
NAV = (
    ("Start", "index.md"),
    ("Command line", "commands.md"),
    ("Python API", "api.md"),
    ("Checks", "checks.md"),
    ("Metrics", "metrics.md"),
    ("Words of a report", "words.md"),
    ("Stored files", "stored.md"),
    ("Known bugs", "gallery.md"),
    ("Contributing", "contributing.md"),
    ("Changes", "changes.md"),
)
GALLERY = "vae_compat.reports.gallery"
"""The module that makes pictures of known bugs: a page of its own, in the place of ours."""
API = {
    "Tile a VAE": ("tiled_vae.tiled", "tiled_vae.VAEHook", "tiled_vae.TilingError"),
    "Judge a hook": ("front.api.check_hook", "front.api.Report", "front.api.ReportedFinding"),
    "Judge a hook in tests": ("front.adopting.parametrizing.parametrize_hook",),
    "Errors": ("front.api.HookFailureError", "errors.UsageError", "errors.StoppedError"),
}

CALLED_BY_HOSTS = frozenset({"tiled_vae.VAEHook"})
"""Classes whose own description says all that their users need."""


def build(root: Path, out: Path) -> None:
    """Build the pages of the repository ``root`` into the folder ``out``, which is replaced.

    Raises ``UsageError`` where ``root`` is no checkout, or a link leads nowhere.
    """
    for name in OWN:
        if not (root / name).is_file():
            raise UsageError(f"there is no {name} in '{root}': start this in the checkout")
    with tempfile.TemporaryDirectory(prefix="vae-compat-docs-") as name:
        folder = Path(name)
        for page, text in pages(root).items():
            (folder / page).write_text(text, encoding="utf-8")
        for file in NAMES.values():
            shutil.copy(str(resources.files("vae_compat.reports") / file), folder)
        _build(folder, out)
    if importlib.util.find_spec(GALLERY) is not None:
        subprocess.run([sys.executable, "-m", GALLERY, str(out)], check=True)


def pages(root: Path) -> dict[str, str]:
    """Every page as Markdown, by its file name."""
    found = {page: _own(root / name) for name, page in OWN.items()}
    made = {
        "commands.md": _commands(),
        "api.md": _api(),
        "checks.md": _checks(),
        "metrics.md": _metrics(),
        "words.md": _words(),
        "stored.md": _stored(),
        "gallery.md": (
            "# Known bugs",
            "",
            f"Their pictures are made by `python -m {GALLERY} DIR`.",
        ),
    }
    return found | {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def _own(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    for name, page in OWN.items():
        text = text.replace(f"({name})", f"({page})").replace(f"({name}#", f"({page}#")
    return text


def _commands() -> Iterator[str]:
    yield from ("# Command line", "", "`vae-compat`, or `python -m vae_compat`, and a command.", "")
    for name, parser in cli.commands().items():
        yield from (f"## {name}", "", "```text", parser.format_help().rstrip(), "```", "")


def _api() -> Iterator[str]:
    yield from ("# Python API", "", "All of it is imported from `vae_compat` itself.", "")
    for title, names in API.items():
        yield from (f"## {title}", "")
        for name in names:
            yield f"::: vae_compat.{name}"
            if name in CALLED_BY_HOSTS:
                yield from ("    options:", "      members: false")
            yield ""


def _checks() -> Iterator[str]:
    from vae_compat.checks.registry import CHECKS

    yield from (
        "# Checks",
        "",
        "What each demands of a hook, in the order of reports. `vae-compat explain CHECK` says the"
        " same, with the known-bad hooks that the check has to catch.",
        "",
    )
    for tier in dict.fromkeys(check.tier for check in CHECKS):
        yield from (f"## {str(tier).capitalize()}", "", explain.TERMS[tier], "")
        for check in (check for check in CHECKS if check.tier is tier):
            yield from (f"### {check.name}", "", check.description, "")
            if check.informs:
                yield from ("For information: it never fails.", "")


def _metrics() -> Iterator[str]:
    yield from ("# Metrics", "", "The numbers of records. `null` in a record: not measured.", "")
    yield from _table(
        ("metric", "unit", "what it is"),
        ((f"`{name}`", metric.unit, metric.text) for name, metric in METRICS.items()),
    )


def _words() -> Iterator[str]:
    yield from ("# Words of a report", "", "`vae-compat explain WORD` says the same.", "")
    for kind, docs in explain.words().items():
        if kind != "check":
            yield from (f"## {explain.PLURALS[kind]}", "")
            yield from _table(("word", "means"), ((f"`{word}`", docs[word]) for word in docs))
    yield from ("## Families", "")
    for name in FAMILIES:
        yield from ("```text", explain.explain(name), "```", "")


def _stored() -> Iterator[str]:
    yield from (
        "# Stored files",
        "",
        "`results.json` is a whole run; `records.jsonl` is its log, a JSON object a line, with one"
        " of the keys `header`, `resumed`, `record` and `end`. The JSON Schemas:"
        f" [{NAMES['results']}]({NAMES['results']}) and [{NAMES['records']}]({NAMES['records']}).",
        "",
    )
    whole = stored("results")
    kinds = {"results.json": whole} | stored("records")["$defs"] | whole["$defs"]
    for name, schema in kinds.items():
        if "properties" in schema:
            yield from (f"## {name}", "", schema.get("description", ""), "")
            yield from _table(
                ("field", "type", "what it is"),
                (
                    (f"`{field}`", _type(told, kinds), told.get("description", ""))
                    for field, told in schema["properties"].items()
                ),
            )


def _type(told: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """The type of a field in a schema, in words; ``kinds`` are the types that have names."""
    if "$ref" in told:
        name = told["$ref"].rpartition("/")[2]
        named = "properties" in kinds[name]
        return f"[{name}](#{name.lower()})" if named else _type(kinds[name], kinds)
    if "enum" in told:
        return ", ".join(f"`{json.dumps(word)}`" for word in told["enum"])
    if "anyOf" in told:
        return " or ".join(dict.fromkeys(_type(each, kinds) for each in told["anyOf"]))
    if told.get("type") == "array":
        return f"list of {_type(told['items'], kinds)}" if "items" in told else "list"
    kind = told.get("type", "any")
    return kind if isinstance(kind, str) else " or ".join(kind)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown, and a blank line."""
    for row in (head, ["---"] * len(head), *rows):
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _build(folder: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="vae-compat-docs-") as name:
        room = Path(name)
        # The sources under the name by which they are imported, for what reads and never imports.
        (room / "vae_compat").symlink_to(str(resources.files("vae_compat")))
        settings = room / "mkdocs.yml"  # JSON is YAML as well
        settings.write_text(json.dumps(_settings(folder, out.resolve(), room)), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        if subprocess.run([*command, "--config-file", str(settings)]).returncode != 0:
            raise UsageError("the documentation is not built: see above")


def _settings(folder: Path, out: Path, sources: Path) -> dict[str, Any]:
    nav: list[dict[str, str]] = [{title: page} for title, page in NAV]
    shown = {
        "docstring_style": "google",
        "show_source": False,
        "show_root_heading": True,
        "show_root_full_path": False,
        "show_root_toc_entry": True,
        "merge_init_into_class": True,
        "heading_level": 3,
        "signature_crossrefs": True,
        "filters": ["!^_"],
    }
    python = {"paths": [str(sources)], "options": shown}
    return {
        "site_name": "vae-compat",
        "docs_dir": str(folder),
        "site_dir": str(out),
        "use_directory_urls": False,  # so that links work from disk
        "theme": {
            "name": "mkdocs",
            "color_mode": "auto",
            "user_color_mode_toggle": True,
            "highlightjs": False,  # it comes from a host elsewhere
        },
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": python}}}],
        "markdown_extensions": ["tables", "fenced_code"],
        "validation": {
            "nav": {"omitted_files": "warn", "not_found": "warn"},
            "links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn"},
        },
        "nav": nav,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the pages of the current folder."""
    parser = argparse.ArgumentParser(prog="python -m vae_compat.front.documentation")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for the pages")
    out: Path = parser.parse_args(arguments).out
    return answered(lambda: _built(out), running=False)


def _built(out: Path) -> int:
    build(Path.cwd(), out)
    sys.stdout.write(f"{out / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
