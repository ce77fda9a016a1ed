"""Write ``gallery.html``: ``python -m vae_compat.reports.gallery OUT_DIR``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from vae_compat.errors import StoppedError, UsageError
from vae_compat.reports.results import read, write_text
from vae_compat.vocabulary import ExitCode

from .bugs import BUGS
from .page import plates, to_html
from .running import run

FILE_NAME = "gallery.html"


def write_gallery(folder: Path) -> Path:
    """Run the hooks of the gallery, write the page into a folder, and return its path.

    Raises ``StoppedError`` where a hook could not be judged, ``UsageError`` where nothing can be
    written.
    """
    with tempfile.TemporaryDirectory(prefix="vae-compat-") as scratch:
        ran = run(BUGS, Path(scratch))
        return write_text(folder / FILE_NAME, to_html(plates(BUGS, read(ran), ran)))


def main() -> int:
    """Exit code 0, or 3 where there is no gallery."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_compat.reports.gallery", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    try:
        path = write_gallery(parser.parse_args().folder)
    except (StoppedError, UsageError) as error:
        sys.stderr.write(f"vae-compat: {error}\n")
        return ExitCode.HARNESS
    sys.stdout.write(f"{path}\n")
    return ExitCode.HOLDS


if __name__ == "__main__":
    sys.exit(main())
