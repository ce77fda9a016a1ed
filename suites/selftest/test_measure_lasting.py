"""What runs keep for later runs is used where nothing differs, and never trusted blindly."""

from __future__ import annotations

import ast
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vae_compat
from vae_compat import fixtures
from vae_compat.contracts.cases import Case
from vae_compat.device.meter import Convolution, Copies, Estimate, Reading
from vae_compat.measure import bench, shelf
from vae_compat.measure import circumstances as told
from vae_compat.measure.observation import Baseline
from vae_compat.measure.sealing import Seal
from vae_compat.measure.shelf import lasting
from vae_compat.measure.store import BaselineStore
from vae_compat.scenarios import case_runner, conventions, estimate
from vae_compat.suites.selftest.measure_fakes import TinyView, a_baseline, a_case
from vae_compat.suites.selftest.running import here, profile
from vae_compat.suites.selftest.test_measure_store import got, never, same
from vae_compat.suites.selftest.test_schema import validator

SMALL = a_case(height=8, width=8)
MADE = a_baseline(SMALL)
LATER = 1e12
"""Any file is older."""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., BaselineStore]:
    """A store as a new run has it: with a folder and a key of its own, and the common cache."""

    def store(name: str, facts: str = "a", until: float = LATER) -> BaselineStore:
        kept = lasting(tmp_path / "cache", until)
        return BaselineStore(tmp_path / name, facts, seal=Seal(name.encode()), lasting=kept)

    got(store("first"), SMALL, lambda: MADE)
    return store


def entries(folder: Path) -> list[Path]:
    found = sorted((folder / "cache").iterdir())
    assert len(found) == 2  # the truth, and what untiled gave
    return found


def test_a_later_run_computes_nothing_and_has_every_bit(run, tmp_path: Path) -> None:
    assert same(got(run("second"), SMALL, never), MADE)
    assert [file.suffix for file in entries(tmp_path)] == [".safetensors"] * 2


def test_other_circumstances_have_their_own(run) -> None:
    with pytest.raises(AssertionError, match="computed again"):
        got(run("second", facts="b"), SMALL, never)


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def sealed_garbage(file: Path) -> None:
    file.write_bytes(Seal().on(b"\xff" * 64))


def sealed_by_another(file: Path) -> None:
    content = Seal().opened(file.read_bytes())
    assert content is not None
    file.write_bytes(Seal(b"foreign").on(content))


def linked(file: Path) -> None:
    file.rename(file.with_suffix(".aside"))
    file.symlink_to(file.with_suffix(".aside"))


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "spoil", [torn, flipped, emptied, sealed_garbage, sealed_by_another, linked, piped, os.unlink]
)
def test_a_spoilt_entry_is_computed_anew(run, tmp_path: Path, spoil) -> None:
    for file in entries(tmp_path):
        spoil(file)
    made = []
    again = got(run("second"), SMALL, lambda: made.append(1) or MADE)
    assert made == [1, 1]
    assert same(again, MADE)


def test_an_entry_of_another_name_is_not_taken_for_it(run, tmp_path: Path) -> None:
    """One of the same size, but of another input, was copied over it."""
    kept = lasting(tmp_path / "cache", LATER)
    foreign = a_baseline(SMALL, seed=1)
    got(BaselineStore(tmp_path / "b", "b", lasting=kept), SMALL, lambda: foreign)
    ours, store = {}, BaselineStore(tmp_path, "a")
    for name in (SMALL.baseline_id, f"truth of {SMALL.truth_id}"):
        ours[name] = tmp_path / "cache" / f"{store.key(name)}.safetensors"
        theirs = BaselineStore(tmp_path, "b").key(name)
        ours[name].write_bytes((tmp_path / "cache" / f"{theirs}.safetensors").read_bytes())
    assert same(got(run("second"), SMALL, lambda: MADE), MADE)


def test_what_changes_while_a_run_goes_on_is_not_used_in_it(run, tmp_path: Path) -> None:
    began = max(file.stat().st_ctime for file in entries(tmp_path)) + 0.001
    assert same(got(run("second", until=began), SMALL, never), MADE)
    time.sleep(0.02)
    for file in entries(tmp_path):  # a hook writes, and sets the time back that it can set
        file.write_bytes(file.read_bytes())
        os.utime(file, (0, 0))
    with pytest.raises(AssertionError, match="computed again"):
        got(run("third", until=began), SMALL, never)


def test_a_cache_that_cannot_be_written_to_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    kept = lasting(tmp_path / "cache", LATER)
    store = BaselineStore(tmp_path / "own", "a", lasting=kept)
    assert same(got(store, SMALL, lambda: MADE), MADE)


def test_the_oldest_entries_go_first_and_foreign_files_stay(tmp_path: Path) -> None:
    kept = lasting(tmp_path)
    for age, name in enumerate("abc"):
        kept.write(name, b"x" * 100)
        os.utime(tmp_path / f"{name}.safetensors", (1000 - age, 1000 - age))
    (tmp_path / "readme").write_text("y" * 1000)
    (tmp_path / ".a.safetensors.1").write_text("of a process that was killed")
    os.utime(tmp_path / ".a.safetensors.1", (0, 0))
    kept.prune(most=2 * (100 + len(Seal().of(b""))))
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"a.safetensors", "b.safetensors", "readme"}


def test_packing_keeps_half_precision_and_layout_apart(tmp_path: Path) -> None:
    truth = torch.randn(1, 3, 4, 4).bfloat16().double()
    made = Baseline(**{**vars(MADE), "output": truth.bfloat16(), "truth": truth})
    store = BaselineStore(tmp_path, "a", lasting=lasting(tmp_path / "cache", LATER))
    got(store, SMALL, lambda: made)
    again = got(BaselineStore(tmp_path, "a"), SMALL, never)
    assert again.output.dtype is torch.bfloat16
    assert same(again, made)


COUNTED = Reading(
    flops=7,
    convolutions={Convolution((4, 3, 3, 3), (8, 9)): 2},
    copies=(Copies("host_to_device", True, False, False, 2, 1024),),
)
OTHERS = (
    estimate.Untiled(Estimate("a GPU", 0.1 + 0.2, {"convolution": 0.9, "memory": 0.1}), COUNTED),
    conventions.Untiled({(1, "as a clip"): ((1, 3, 2, 8, 8), ((3, 4), None, "tuple"))}),
)


@pytest.mark.parametrize("made", OTHERS, ids=lambda made: type(made).__module__.split(".")[-1])
def test_what_scenarios_keep_is_found_as_it_was_and_never_where_it_is_broken(
    tmp_path: Path, made
) -> None:
    def store(name: str) -> BaselineStore:
        return BaselineStore(tmp_path / name, "a", lasting=lasting(tmp_path / "cache", LATER))

    store("first").kept("it", type(made), lambda: made)
    found = store("second").kept("it", type(made), never)
    assert found == made
    assert str(found) == str(made)  # in its order, which says what takes most of the time
    (file,) = (tmp_path / "cache").iterdir()
    flipped(file)
    with pytest.raises(AssertionError, match="computed again"):
        store("third").kept("it", type(made), never)


class Tiny:
    """Supplies of a `TinyVAE`, which count those that are built."""

    def __init__(self) -> None:
        self.built = 0

    def build(self, case: Case) -> nn.Module:
        self.built += 1
        return TinyView().vae

    def views(self, vae: Any, *_: object) -> tuple[TinyView, ...]:
        view = TinyView()
        view.vae, view.encoder, view.decoder = vae, vae.encoder, vae.decoder
        return (view,)

    def make_input(self, case: Case) -> Tensor:
        return torch.rand(case.input_shape, generator=torch.Generator().manual_seed(0))


def test_a_later_run_builds_no_vae_for_the_untiled_result_of_the_other_direction(
    tmp_path: Path,
) -> None:
    def untiled(name: str, supplies: Tiny) -> Tensor:
        kept = lasting(tmp_path / "cache", LATER)
        return bench.Bench(supplies, tmp_path / name, lasting=kept).untiled(SMALL.turned)

    first, second = Tiny(), Tiny()
    assert torch.equal(untiled("first", first), untiled("second", second))
    assert (first.built, second.built) == (1, 0)


# What entries are found by -----------------------------------------------------------------------


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "threads": lambda patch: patch.setattr(torch, "get_num_threads", lambda: 77),
    "kernels": lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "x"),
    "environment": lambda patch: patch.setenv("MKL_CBWR", "AVX2"),
    "packages": lambda patch: patch.setattr(told, "_release", lambda package: (package, "x")),
    "code": lambda patch: patch.setattr(told, "_code", lambda: "x"),
    "cpu": lambda patch: patch.setattr(told, "_cpu", lambda: "x"),
    "precision": lambda patch: patch.setattr(torch, "get_float32_matmul_precision", lambda: "x"),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_every_circumstance_tells(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    before = told.circumstances("seed 0")
    assert told.circumstances("seed 0") == before != told.circumstances("seed 1")
    CHANGES[changed](monkeypatch)
    assert told.circumstances("seed 0") != before


def imported(*modules: str) -> set[str]:
    """These modules of the package and all that they import at any time, found by reading them."""
    roots = [Path(vae_compat.__path__[0]), Path(fixtures.__path__[0]).parent]
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        place = Path(*name.split(".")[1:])
        files = [root / end for root in roots for end in (f"{place}.py", place / "__init__.py")]
        file = next(filter(Path.is_file, files), None)
        if name in seen or file is None or "." not in name:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vae_compat"):
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    return seen


def test_a_change_of_any_code_that_makes_baselines_tells() -> None:
    kept = ("measure.bench", "scenarios.conventions", "scenarios.estimate", "fixtures.supplies")
    needed = imported(*(f"vae_compat.{name}" for name in kept))
    assert len(needed) > 40
    assert not {name for name in needed if told.APART & set(name.split("."))}
    own = {Path(module.__file__ or "").resolve() for module in (shelf, fixtures)}
    assert own <= set(told.code_files())
    assert "gpus.toml" in {file.name for file in told.code_files()}


@pytest.mark.slow
def test_a_warm_run_computes_nothing_untiled_and_finds_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = profile(tmp_path, "sound")
    case = "sd-mock-ldm-decode-exact-44x20t16-b1-f1-float32-sim"
    hook = (f"--profile={file}", "--case", case, "-k", "call_contract or parity or work")
    plain = here(tmp_path / "plain", *hook)
    cold = here(tmp_path / "cold", *hook, "--cache", tmp_path / "cache")
    for room, name in (
        (bench, "measure_truth"),
        (bench, "measure_baseline"),
        (case_runner, "untiled_conventions"),
    ):
        monkeypatch.setattr(room, name, lambda *_: never())
    warm = here(tmp_path / "warm", *hook, "--cache", tmp_path / "cache")
    assert plain.code == cold.code == warm.code == 0, warm.out
    assert plain.results["records"] == cold.results["records"] == warm.results["records"]
    assert len(plain.results["records"]) == 3
    validator("results").validate(warm.results)
    for line in (Path(warm.folder) / "records.jsonl").read_text().splitlines():
        validator("records").validate(json.loads(line))
