"""What processes of a run share is believed only where one of them has written it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from vae_compat.measure.models import WeightFiles
from vae_compat.measure.sealing import Seal, SealedFile
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
    BaselineStore(tmp_path, "run", seal=Seal(b"guessed")).get(case, lambda: forged)
    found = BaselineStore(tmp_path, "run", seal=Seal(b"key")).get(case, lambda: honest)
    assert torch.equal(found.output, honest.output)
    again = BaselineStore(tmp_path, "run", seal=Seal(b"key")).get(case, lambda: forged)
    assert torch.equal(again.output, honest.output)


def test_a_file_is_seen_to_be_another(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"right")
    mine, other = SealedFile(Seal(b"key")), SealedFile(Seal(b"key"))
    assert not mine.holds(file)
    mine.close(file)
    assert mine.holds(file)
    assert other.holds(file)
    assert not SealedFile(Seal(b"another")).holds(file)
    file.write_bytes(b"wrong")
    assert not mine.holds(file)
    assert not other.holds(file)
    assert not SealedFile(Seal(b"key")).holds(file)
    file.unlink()
    assert not mine.holds(file)


def test_weights_that_were_overwritten_are_written_again(tmp_path: Path) -> None:
    class Small(torch.nn.Linear):
        config: ClassVar = {"wide": 2}

    made: list[Small] = []

    def build(_: object) -> Small:
        made.append(Small(2, 2))
        return made[-1]

    files = WeightFiles(tmp_path, build, Seal(b"key"))
    file = files.of(a_case())
    right = file.read_bytes()
    assert files.of(a_case()) == file
    assert len(made) == 1
    file.unlink()
    file.write_bytes(b"wrong")
    assert files.of(a_case()) == file
    assert len(made) == 2
    assert len(file.read_bytes()) == len(right)
