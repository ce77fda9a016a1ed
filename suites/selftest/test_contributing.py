"""The files and words that CONTRIBUTING.md names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOLD = re.findall(r"`([^`\n]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
FOLDERS = ("harness", "fixtures", "suites", "reports")
MADE_UP = {"mps.py", "ltx.py", "LtxView", "MPS", "RAMP", "ramp", "check_tiles_once"}
MADE_UP |= {"reports/sarif.py", "write_sarif"}
"""Names that the examples make up."""


@pytest.fixture(scope="module")
def source() -> str:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    own = Path(__file__)
    return "\n".join(f"{file}\n{file.read_text('utf-8')}" for file in files if file != own)


@pytest.mark.parametrize("path", sorted({t for t in TOLD if re.fullmatch(r"[\w/.]+/[\w.]*", t)}))
def test_every_path_is_there(path: str) -> None:
    assert path in MADE_UP or (ROOT / path).exists()


@pytest.mark.parametrize("word", sorted({t for t in TOLD if re.fullmatch(r"_?[A-Za-z]\w+", t)}))
def test_every_word_is_in_the_code(word: str, source: str) -> None:
    assert word in MADE_UP or re.search(rf"\b{word}\b", source)


@pytest.mark.parametrize("file", sorted({t for t in TOLD if re.fullmatch(r"\w+\.py", t)}))
def test_every_file_is_somewhere(file: str) -> None:
    assert file in MADE_UP or any(next((ROOT / f).rglob(file), None) for f in FOLDERS)
