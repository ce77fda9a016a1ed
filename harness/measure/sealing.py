"""What processes of a run share, and nobody else can have written.

A hook runs with the rights of the user, and can find the folder of the run. What it writes there is
not trusted: every file carries an authentication code that only the run's own processes can make.
What runners read, which cannot know the key of that code, lies in memory that nobody can write to.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import weakref
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


class SealedMemory:
    """Content that every process of the user can read by a path, and none can change.

    A file in memory whose seals the system keeps, even against its owner (see ``memfd_create`` in
    the Linux manual). It is there as long as this object.
    """

    def __init__(self, content: bytes) -> None:
        """Raises ``OSError`` where there is no memory for it."""
        self._descriptor = os.memfd_create("vae-compat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(
            self._descriptor,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
        )
        weakref.finalize(self, os.close, self._descriptor)

    @property
    def path(self) -> Path:
        """Where it can be opened."""
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
