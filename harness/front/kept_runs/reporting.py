"""What was found, printed and written; ``vae-compat report`` does it again from a log."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.errors import UsageError
from vae_compat.front.ending import complain
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.validation import check_against
from vae_compat.vocabulary import ExitCode

if TYPE_CHECKING:
    from vae_compat.reports.results import Results


def report(
    folder: Path,
    *,
    junitxml: Path | None = None,
    against: Path | None = None,
    opened: bool = False,
) -> int:
    """Render everything again from the log of a run, and return its exit code."""
    from vae_compat.reports.compare import hold_against
    from vae_compat.reports.log import concluded, read_log
    from vae_compat.reports.results import read

    check_against(against, folder)
    before = None if against is None else read(against)
    results = concluded(read_log(folder), folder)
    if before is not None:
        results = hold_against(results, before)
    return tell(results, Options(out=folder, junitxml=junitxml, open=opened))


def tell(results: Results, options: Options) -> int:
    """Print what was found, then write it; returns the exit code."""
    from vae_compat.reports.html.rendering import FILE_NAME
    from vae_compat.reports.rendering import print_table, say, write_all

    code = int(results.verdict.code)
    broken = not print_table(results, sys.stdout)
    if broken:  # the interpreter would complain of what it cannot flush, and exit with 120
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        write_all(results, options.out, options.junitxml)
    except UsageError as error:
        complain(f"{error}; what was found is printed above and in {options.out}")
        return ExitCode.HARNESS
    if not broken:
        broken = not say(f"report: {options.out / FILE_NAME}\n", sys.stdout)
    if options.open:
        _open(options.out / FILE_NAME)
    if code == ExitCode.HARNESS:
        complain(results.verdict.reason)
    return ExitCode.HARNESS if broken and code == ExitCode.HOLDS else code


def _open(page: Path) -> None:
    """Show a page in the browser of this machine, where there is one."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        complain(f"found no browser: open {page}")
