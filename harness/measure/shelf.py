"""Folders of sealed files, in which processes and runs leave results for each other."""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from torch import Tensor

from vae_compat.contracts.travelling import adapter_of
from vae_compat.measure.sealing import Seal

MOST = 8 * 2**30
"""Bytes of a file that is read, and of all files that are kept from run to run."""
SUFFIX = ".safetensors"
_STALE = 86_400.0
"""Seconds after which a draft was left behind by a process that was killed."""
T = TypeVar("T")


def packed(name: str, value: object) -> bytes:
    """A dataclass with dense tensors on the plain CPU as safetensors, all else in it as JSON.

    With the name that it is found by, so that a file that was renamed is told from its own.
    """
    tensors: dict[str, Tensor] = {}
    plain = adapter_of(type(value)).dump_python(value, mode="json", context=tensors)
    return safetensors.torch.save(tensors, {"name": name, "value": json.dumps(plain)})


def unpacked(name: str, kind: type[T], content: bytes) -> T | None:
    """The dataclass in it; ``None`` where it holds none, or one of another name."""
    try:
        length = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + length])["__metadata__"]
        if told["name"] != name:
            return None
        tensors = safetensors.torch.load(content)
        found: T = adapter_of(kind).validate_json(told["value"], strict=True, context=tensors)
    except (ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
        return None
    return found


@dataclass(frozen=True)
class Shelf:
    """Files of content with a code, which appear whole or not at all."""

    folder: Path
    seal: Seal
    until: float | None = None
    """Files that have changed since are not read. The system sets the time of a change, and no
    hook can set it back: what the hooks of this run write here is not trusted."""

    def read(self, name: str) -> bytes | None:
        """The content; ``None`` where it is not there, broken, of another key, or too new."""
        try:
            with open(self._file(name), "rb", opener=_opened) as file:
                if not _is_plain(file.fileno()):
                    return None
                content = self.seal.opened(file.read())
                # Asked after reading: a file that is written to meanwhile has changed.
                old = self.until is None or os.fstat(file.fileno()).st_ctime < self.until
                return content if old else None
        except OSError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a file there. Raises ``OSError`` where that is impossible."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file(name)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            draft.write_bytes(self.seal.on(content))
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)

    def prune(self, most: int = MOST) -> None:
        """Remove the oldest files until the others take no more than ``most`` bytes."""
        found: list[tuple[float, int, Path]] = []
        for file in self.folder.glob(f"*{SUFFIX}*"):
            with suppress(OSError):
                told = file.lstat()
                if file.suffix == SUFFIX:
                    found.append((told.st_mtime, told.st_size, file))
                elif told.st_mtime < time.time() - _STALE:
                    file.unlink()
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= most:
                return
            with suppress(OSError):
                file.unlink()
            total -= size

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"


def lasting(folder: Path, until: float | None = None) -> Shelf:
    """A shelf for later runs; its codes show what is broken, and not who has written it."""
    return Shelf(folder, Seal(), until)


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO must not block


def _is_plain(descriptor: int) -> bool:
    told = os.fstat(descriptor)
    return stat.S_ISREG(told.st_mode) and told.st_size <= MOST
