"""Files that the options name: refused before anything runs, without waiting for a pipe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vae_compat.errors import UsageError


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written to."""
    if not str(folder).strip():
        raise UsageError(f"{option} is empty: give a folder")
    place = _existing(option, folder)
    if not place.is_dir():
        raise UsageError(f"{option} {folder}: '{place}' is a file, no folder: give another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {folder}: '{place}' is not writable: give another folder")


def check_file_in(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse a folder in which one of these files cannot be written."""
    for name in names:
        check_writable("--out", folder / name)


def check_writable(option: str, file: Path) -> None:
    """Refuse a path that cannot be written as a plain file."""
    if not file.name.strip() or file.is_dir():
        raise UsageError(f"{option} '{file}' is no file: give the path of a file to write")
    place = _existing(option, file)
    if place != file and not place.is_dir():
        raise UsageError(f"{option} {file}: '{place}' is a file, no folder: give another path")
    if place == file and not stat.S_ISREG(_mode(option, file)):
        raise UsageError(f"{option} {file} is no plain file: give another path")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{option} {file}: '{place}' is not writable: give another path")


def check_regular(option: str, file: Path) -> None:
    """Refuse anything but a plain file: reading from a pipe would never end."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{option}: there is no file '{file}': check the path") from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{option}: '{file}' cannot be read ({_reason(error)}): check the path"
        ) from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{option}: '{file}' is no plain file: give another path")


def _existing(option: str, path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    place = path
    try:
        while not _is_there(place) and place != place.parent:
            place = place.parent
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise UsageError(f"{option} {path}: no path can be like this ({_reason(error)})") from None
    return place


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _mode(option: str, file: Path) -> int:
    try:
        return file.stat().st_mode
    except OSError as error:
        raise UsageError(
            f"{option} {file} cannot be written ({error.strerror}): give another path"
        ) from None
