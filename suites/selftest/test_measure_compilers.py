"""``torch.compile`` changes the process that it runs in; hooks that do the same are still told."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_compat.measure.compilers import named_by_inductor, raised_by_inductor, serves_compiler
from vae_compat.measure.process import ProcessState


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process without a trace of the compiler, before and after."""
    init, setstate = nn.Module.__init__, nn.Module.__setstate__
    known = vars(nn.Module).get("___needs_generation_tag_patch")
    if known is not None:  # dynamo would take its methods for installed
        monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", True)
    limit, environment = sys.getrecursionlimit(), dict(os.environ)
    yield
    nn.Module.__init__, nn.Module.__setstate__ = init, setstate
    sys.setrecursionlimit(limit)
    os.environ.clear()
    os.environ.update(environment)
    torch.compiler.reset()
    if known is None and hasattr(nn.Module, "___needs_generation_tag_patch"):
        del nn.Module.___needs_generation_tag_patch


def compiled(backend: str) -> Tensor:
    def double(x: Tensor) -> Tensor:
        return torch.relu(x) * 2

    with torch.no_grad():
        result: Tensor = torch.compile(double, backend=backend)(torch.ones(8))
    return result


def test_what_dynamo_puts_into_modules_is_not_the_hooks_doing() -> None:
    init = nn.Module.__init__
    before = ProcessState()
    assert compiled("eager").tolist() == [2.0] * 8
    assert nn.Module.__init__ is not init
    assert before.undo() == ()
    assert nn.Module.__init__ is not init  # it would not be put there again
    assert ProcessState().undo() == ()


@pytest.mark.parametrize("name", ["__init__", "__setstate__", "__call__"])
def test_a_hooks_own_replacement_is_told_whatever_it_calls_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled("eager")
    original = getattr(nn.Module, name)
    before = ProcessState()

    def patched_init(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    patched_init.__module__ = "torch._dynamo.mutation_guard"
    monkeypatch.setattr(nn.Module, name, patched_init)
    assert before.undo() == (f"torch.nn.Module.{name} was replaced",)


def test_limits_folders_and_threads_are_the_compilers_only_where_it_put_them_itself() -> None:
    with warnings.catch_warnings(action="ignore"):  # torch's own
        import_module("torch._inductor.compile_fx")
    folders = import_module("torch._inductor.runtime.cache_dir_utils")

    assert raised_by_inductor(2000, 1000)
    assert not raised_by_inductor(3000, 1000)
    assert named_by_inductor("TORCHINDUCTOR_CACHE_DIR", folders.default_cache_dir())
    assert not named_by_inductor("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert not named_by_inductor("PATH", folders.default_cache_dir())
    done = Event()
    thread = Thread(target=done.wait, name="InductorSubproc")
    assert not serves_compiler(thread)
    assert not serves_compiler(None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler of C++")
def test_a_whole_compilation_leaves_nothing_that_is_told() -> None:
    before = ProcessState()
    assert compiled("inductor").tolist() == [2.0] * 8
    assert before.undo() == ()
    assert before.undo() == ()
