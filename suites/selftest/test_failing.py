"""A failure is described from the hook's exception as Python raises it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from vae_compat.contracts.cases import Mode
from vae_compat.isolation.limiting import Hang
from vae_compat.measure import failing
from vae_compat.measure.failing import failure_of
from vae_compat.measure.observation import Failure, Origin
from vae_compat.subject.settings import ModeNotOffered

HOOK = """
import torch


class TooSmall(KeyError):
    pass


def raises(error):
    raise error


def refuses(size):
    if size % 2: raise NotImplementedError("odd sizes")


def refuses_in_many_lines(size):
    if size % 2:
        raise NotImplementedError(
            "odd sizes are not supported: "
            f"{size}"
        )


def asserts(size):
    assert size % 2 == 0, "odd sizes"


def asserts_mutely(size):
    assert size % 2 == 0


def reraises(size):
    try:
        {}[size]
    except KeyError:
        raise


def fails_to_make_its_error(size):
    raise ValueError(size + "odd")


def adds(x):
    return x + "raise"


def raise_or_assert(x):
    return x.raise_or_assert


def from_the_library(x):
    torch.nn.functional.interpolate(x, size=3, scale_factor=2)


def of_its_own():
    adds(depth=3)


def passes_on(coder, x):
    return coder(x, feat_cache=[None], feat_idx=[0])


class Coder(torch.nn.Module):
    def forward(self, x):
        return x


def swallows(x, **more):
    if more:
        raise TypeError(f"swallows() got an unexpected keyword argument 'feat_idx'")
"""


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module of a hook, in a folder of its own."""
    file = tmp_path_factory.mktemp("hook") / "failing_hook.py"
    file.write_text(HOOK)
    module = ModuleType("failing_hook")
    module.__file__ = str(file)
    exec(compile(HOOK, file, "exec"), vars(module))
    return module


def failure(hook: ModuleType, call: Callable[[], Any], phase: str = "run") -> Failure:
    """The `Failure` that is made of the exception which a call raises."""
    assert hook.__file__ is not None
    try:
        call()
    except BaseException as error:
        return failure_of(error, phase, 2.0, hook.__file__)
    raise AssertionError("nothing was raised")


DELIBERATE: list[tuple[str, tuple[Any, ...]]] = [
    ("refuses", (3,)),
    ("refuses_in_many_lines", (3,)),
    ("asserts", (3,)),
    ("raises", (ValueError("odd"),)),
    ("raises", (RuntimeError("out of tiles"),)),
]
ACCIDENTAL: list[tuple[str, tuple[Any, ...]]] = [
    ("asserts_mutely", (3,)),
    ("raises", (ValueError("  "),)),
    ("raises", (KeyError("size"),)),
    ("raises", (TimeoutError("still running after 2 s"),)),
    ("raises", (torch.OutOfMemoryError("none left"),)),
    ("raises", (SystemExit("no"),)),
    ("reraises", (3,)),
    ("fails_to_make_its_error", (3,)),
    ("adds", (3,)),
    ("raise_or_assert", (3,)),
    ("from_the_library", (torch.zeros(1, 1, 4, 4),)),
]


def named(rows: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
    return [f"{name}-{number}" for number, (name, _) in enumerate(rows)]


@pytest.mark.parametrize(("name", "given"), DELIBERATE, ids=named(DELIBERATE))
def test_a_refusal_is_raised_in_the_hook_with_words(
    hook: ModuleType, name: str, given: tuple[Any, ...]
) -> None:
    found = failure(hook, partial(getattr(hook, name), *given))
    assert found.deliberate
    assert found.origin is Origin.HOOK


@pytest.mark.parametrize(("name", "given"), ACCIDENTAL, ids=named(ACCIDENTAL))
def test_an_accident_is_no_refusal(hook: ModuleType, name: str, given: tuple[Any, ...]) -> None:
    assert not failure(hook, partial(getattr(hook, name), *given)).deliberate


def test_a_kind_of_its_own_is_a_refusal_even_where_its_base_is_an_accident(
    hook: ModuleType,
) -> None:
    assert failure(hook, partial(hook.raises, hook.TooSmall("below 8"))).deliberate


def test_a_library_refuses_for_the_hook_only_while_that_is_built(hook: ModuleType) -> None:
    call = partial(hook.from_the_library, torch.zeros(1, 1, 4, 4))
    assert not failure(hook, call, "run").deliberate
    assert failure(hook, call, "put_on").deliberate
    assert not failure(hook, partial(hook.adds, 3), "put_on").deliberate


def test_a_mode_that_is_not_offered_is_refused_by_the_harness(hook: ModuleType) -> None:
    error = ModeNotOffered(Mode.FAST, "fast_decoder", "mine")
    found = failure(hook, partial(hook.raises, error))
    assert found.deliberate
    assert found.origin is Origin.HARNESS


@pytest.mark.parametrize(
    ("error", "origin"), [(Hang(), Origin.LIMIT), (TimeoutError("slow"), Origin.HOOK)]
)
def test_only_the_time_limit_is_a_hang(
    hook: ModuleType, error: BaseException, origin: Origin
) -> None:
    found = failure(hook, partial(hook.raises, error))
    assert found.origin is origin
    assert found.hung is (origin is Origin.LIMIT)
    assert (found.kind == "TimeoutError") is (origin is Origin.HOOK)


def takes_one(x: Any) -> Any:
    return x


WRONG_CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "unknown keyword": (takes_one, (1,), {"temb": None}),
    "too many": (takes_one, (1, [None], [0]), {}),
    "too few": (takes_one, (), {}),
    "twice": (takes_one, (1,), {"x": 2}),
    "partial": (partial(takes_one, y=2), (1,), {}),
    "class without arguments": (type("Plain", (), {}), (1,), {}),
}


@pytest.mark.parametrize("kind", WRONG_CALLS)
def test_a_call_that_does_not_fit_the_signature_is_refused(hook: ModuleType, kind: str) -> None:
    """The exceptions are raised by Python itself, in the words of the version that runs here."""
    forward, given, more = WRONG_CALLS[kind]
    coder = nn.Identity()
    coder.forward = forward  # type: ignore[method-assign]
    call = partial(coder, *given, **more)
    found = failure(hook, call)
    assert found.refuses_call, (sys.version, found.message)
    assert not found.deliberate
    assert not failure(hook, call, "put_on").refuses_call


def test_a_wrong_call_that_the_hook_makes_itself_is_no_refused_call(hook: ModuleType) -> None:
    assert not failure(hook, hook.of_its_own).refuses_call
    assert not failure(hook, partial(hook.adds, 3)).refuses_call


def test_arguments_of_coders_are_refused_wherever_they_end(hook: ModuleType) -> None:
    assert failure(hook, partial(hook.passes_on, hook.Coder(), 1)).refuses_call
    assert failure(hook, partial(hook.passes_on, takes_one, 1)).refuses_call
    assert failure(hook, partial(hook.swallows, 1, feat_idx=[0])).refuses_call


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("none left"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError("none left"), False),
        (RuntimeError("boom"), False),
    ],
)
def test_who_says_that_memory_ran_out(hook: ModuleType, error: Exception, told: bool) -> None:
    assert failure(hook, partial(hook.raises, error)).out_of_memory is told


def test_where_names_the_innermost_frame_of_the_hook(hook: ModuleType) -> None:
    found = failure(hook, partial(hook.from_the_library, torch.zeros(1, 1, 4, 4)))
    assert found.where.startswith(str(Path(str(hook.__file__))))
    assert failure_of(ValueError("never raised"), "run", 1.0).where == ""


def test_an_exception_that_never_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndlessError(Exception):
        def __str__(self) -> str:
            while True:
                pass

    monkeypatch.setattr(failing, "_WORDING", 0.05)
    assert failure_of(EndlessError(), "run").message == "(its message cannot be read: Hang)"
