"""What a library sets as it is imported is not the hook's doing; what the hook sets is."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_compat.measure.process import ProcessState, settings_now
from vae_compat.subject.guard import guarded
from vae_compat.subject.imports import Imports

SETS = """
import os, signal, torch
os.environ["A_LIBRARY_WAS_HERE"] = "1"
os.chdir("/")
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
torch.backends.cudnn.benchmark = True
VALUE = 3
"""
NAME = "a_library_that_sets_things"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes a module that sets things, in a folder of libraries or in another one."""

    def write(folder: str, text: str = SETS) -> None:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{NAME}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / folder)

    yield write
    sys.modules.pop(NAME, None)


def told(act: Callable[[], Any]) -> tuple[str, ...]:
    """What is told of a hook that does this, as an attempt looks at it."""
    before, imports = ProcessState(), Imports(settings_now)
    try:
        with imports.noted():
            act()
    finally:
        found = before.undo(imports.set)
    return (*found, *before.undo(imports.set))


def test_what_a_library_sets_at_its_import_is_put_back_and_not_told(library: Any) -> None:
    library("site-packages")
    folder = Path.cwd()
    assert told(lambda: import_module(NAME)) == ()
    assert sys.modules[NAME].VALUE == 3
    assert (Path.cwd(), torch.backends.cudnn.benchmark) == (folder, False)
    assert "A_LIBRARY_WAS_HERE" not in os.environ


def test_what_a_module_of_the_hook_sets_is_told(library: Any) -> None:
    library("hooks")
    assert len(told(lambda: import_module(NAME))) == 4


def test_what_the_hook_sets_after_an_import_is_told(library: Any) -> None:
    library("site-packages")

    def act() -> None:
        import_module(NAME)
        os.environ["A_LIBRARY_WAS_HERE"] = "2"
        torch.backends.cudnn.deterministic = True

    found = told(act)
    assert sorted(line.split(" was ")[0] for line in found) == [
        "cudnn.deterministic",
        "environment variable A_LIBRARY_WAS_HERE",
    ]


def test_an_import_is_as_it_would_be_unwatched(library: Any) -> None:
    library("site-packages")

    def act() -> None:
        spec = importlib.util.find_spec(NAME)
        assert spec is not None
        assert spec.loader.get_source(NAME) == SETS  # type: ignore[union-attr]
        module = import_module(NAME)
        assert module.__spec__ is not None
        assert module.__loader__ is module.__spec__.loader
        assert type(module.__loader__).__name__ == "SourceFileLoader"
        assert importlib.util.find_spec("no_such_library_at_all") is None

    finders = list(sys.meta_path)
    told(act)
    assert sys.meta_path == finders


def test_an_import_that_fails_raises_what_it_raised(library: Any) -> None:
    library("site-packages", SETS + "raise ValueError('broken')")
    with pytest.raises(ValueError, match="broken"):
        told(lambda: import_module(NAME))


def test_a_context_that_outlasts_the_call_does_not_bring_the_watch_back(library: Any) -> None:
    library("site-packages")
    finders = list(sys.meta_path)
    imports = Imports(settings_now)
    with ExitStack() as stack:
        with imports.noted():
            stack.enter_context(guarded())
        assert sys.meta_path == finders
    assert sys.meta_path == finders
    with imports.noted(), Imports(dict).noted():
        assert import_module(NAME).VALUE == 3
