"""What processes of a run share is believed only where one of them has written it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from vae_compat.contracts.cases import Case, Scale
from vae_compat.measure.models import Weights, key_of, serialized
from vae_compat.measure.sealing import Seal, SealedMemory
from vae_compat.measure.store import BaselineStore
from vae_compat.suites.selftest.measure_fakes import a_baseline, a_case


def test_only_who_has_the_key_can_seal() -> None:
    seal = Seal(b"key")
    assert seal.opened(seal.on(b"content")) == b"content"
    for forged in (b"", b"content", Seal(b"other").on(b"content"), Seal().on(b"content")):
        assert seal.opened(forged) is None
    assert seal.opened(seal.on(b"content").replace(b"con", b"kon")) is None


def test_a_baseline_that_a_hook_has_written_is_computed_anew(tmp_path: Path) -> None:
    case, honest = a_case(), a_baseline()
    forged = replace(honest, output=torch.zeros_like(honest.output))
    BaselineStore(tmp_path, "run", seal=Seal(b"guessed")).get(
        case, lambda: forged.truth, lambda _: forged
    )
    found = BaselineStore(tmp_path, "run", seal=Seal(b"key")).get(
        case, lambda: honest.truth, lambda _: honest
    )
    assert torch.equal(found.output, honest.output)
    again = BaselineStore(tmp_path, "run", seal=Seal(b"key")).get(
        case, lambda: forged.truth, lambda _: forged
    )
    assert torch.equal(again.output, honest.output)


def test_sealed_memory_is_read_by_its_path_and_nobody_can_write_there() -> None:
    memory = SealedMemory(b"right")
    reading = "import sys, pathlib; print(pathlib.Path(sys.argv[1]).read_bytes())"
    other = [sys.executable, "-c", reading, str(memory.path)]
    assert subprocess.run(other, capture_output=True, check=True).stdout == b"b'right'\n"
    with pytest.raises(PermissionError), memory.path.open("r+b") as file:
        file.write(b"wrong")
    with pytest.raises(PermissionError):
        os.truncate(memory.path, 0)
    with pytest.raises(PermissionError):
        memory.path.unlink()
    assert memory.path.read_bytes() == b"right"


def test_sealed_memory_goes_with_its_object() -> None:
    memory = SealedMemory(b"some")
    path = memory.path
    del memory
    gc.collect()
    assert not path.exists()


class Small(torch.nn.Linear):
    """As little of one of diffusers' VAEs as can be written."""

    config: ClassVar = {"wide": 2}


def test_weights_are_made_once_and_stay_while_they_are_needed() -> None:
    made: list[Case] = []

    def build(case: Case) -> bytes:
        made.append(case)
        return serialized(Small(2, 2))

    weights = Weights(build)
    case = a_case()
    (found,) = weights.of([case]).values()
    assert weights.of([case]) == {key_of(case): found}
    assert made == [case]
    held = load_file(found)
    assert held.keys() == {"weight", "bias"}
    real = [replace(case, family=family, scale=Scale.REAL) for family in ("sd", "sdxl")]
    both = weights.of(real)
    assert all(Path(path).exists() for path in both.values())
    assert not Path(found).exists(), "no others are kept beside large ones"
