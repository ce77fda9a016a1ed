"""Files that processes of a run share, and that nobody else can have written.

A hook runs with the rights of the user, and can find the folder of the run. What it writes there is
not trusted: every file carries an authentication code that only the run's own processes can make.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

SIZE = hashlib.sha256().digest_size


class Seal:
    """Makes and verifies codes with a key that only the processes of a run know."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def of(self, content: bytes) -> bytes:
        """The code of some content, `SIZE` bytes."""
        return hmac.digest(self._key, content, "sha256")

    def on(self, content: bytes) -> bytes:
        """The content with its code."""
        return content + self.of(content)

    def opened(self, sealed: bytes) -> bytes | None:
        """The content; ``None`` where its code was not made with this key."""
        content, code = sealed[:-SIZE], sealed[-SIZE:]
        return content if hmac.compare_digest(code, self.of(content)) else None


class SealedFile:
    """A large file with its code beside it, read once: later only whether it was touched."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._known: dict[Path, tuple[int, ...]] = {}

    def close(self, file: Path) -> None:
        """Seal a file as it is."""
        self._known[file] = _identity(file)
        _code_of(file).write_bytes(self._seal.of(file.read_bytes()))

    def holds(self, file: Path) -> bool:
        """Whether a file is there as it was sealed."""
        try:
            now = _identity(file)
            if file in self._known:
                return self._known[file] == now
            if not hmac.compare_digest(
                _code_of(file).read_bytes(), self._seal.of(file.read_bytes())
            ):
                return False
        except OSError:
            return False
        self._known[file] = now
        return True


def _code_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.code")


def _identity(file: Path) -> tuple[int, ...]:
    """File attributes that change with every write."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
