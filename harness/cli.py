"""The ``vae-compat`` command: ``run``, ``list``, ``explain``.

Nothing heavy is imported before the command line is known to be right: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vae_compat.errors import UsageError

OK, FAILS, USAGE, HARNESS = 0, 1, 2, 3
"""Exit codes: gate holds, gate doesn't, wrong use, the harness itself failed."""

MOST_SECONDS = 1_000_000
"""Of a case; timers of the system take no much longer."""
DEVICES = ("sim", "cuda", "cpu")
TIERS = ("minimum", "recommended", "advanced")
DEFAULT_TIERS = ("minimum", "recommended")
DEFAULT_PROFILES = ("reference",)


class _Parser(argparse.ArgumentParser):
    """One line on stderr instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(
    arguments: Sequence[str] | None = None, *, tell: Callable[[str], None] = lambda _: None
) -> int:
    """Run a command line and return its exit code.

    Without ``arguments`` it is that of this process, and a run gets a process of its own, so that
    no hook can end this one. ``tell`` is called with the name of each hook before it is loaded,
    and with nothing when all are.
    """
    running = False
    try:
        options = parser().parse_args(arguments)
        options.tell = tell
        _settle_device(options)
        command: Callable[[argparse.Namespace], int] = options.command
        running = command is _run
        if running and arguments is None:
            from vae_compat.supervise import supervised

            return supervised(sys.argv[1:])
        return command(options)
    except UsageError as error:
        sys.stderr.write(f"vae-compat: {' '.join(str(error).split())}\n")
        return USAGE
    except KeyboardInterrupt:
        sys.stderr.write("vae-compat: interrupted\n")
        return HARNESS
    except BrokenPipeError:
        # The reader (head, less) went away; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HARNESS if running else OK  # a run that was cut short has no verdict
    except Exception:
        # An uncaught exception would exit with 1, which says that the gate does not hold.
        import traceback

        traceback.print_exc()
        sys.stderr.write("vae-compat: this is a defect of the harness, not of the hook\n")
        return HARNESS


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="vae-compat",
        allow_abbrev=False,
        description="Does a tiled VAE still equal the VAE, and does it really save VRAM?",
        epilog="exit codes: 0 the gate holds, 1 it does not, 2 wrong use, 3 the harness failed",
    )
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", allow_abbrev=False, help="judge a hook")
    _add_subject(run)
    _add_selection(run, tiers=f"{','.join(DEFAULT_TIERS)}; all for one --case")
    _add_run(run)
    run.set_defaults(command=_run)

    listing = commands.add_parser("list", allow_abbrev=False, help="list what run would run")
    listing.add_argument(
        "what", nargs="?", default="cases", choices=["cases", "families", "checks", "hooks"]
    )
    listing.add_argument("--ids", action="store_true", help="plain case ids, one a line")
    _add_subject(listing)
    _add_selection(listing, tiers="all")
    listing.set_defaults(command=_list)

    explain = commands.add_parser(
        "explain", allow_abbrev=False, help="explain a word of the report"
    )
    explain.add_argument("word", metavar="CHECK|GRADE|PHASE|MECHANISM|SCENARIO|FAMILY|CASE_ID")
    explain.set_defaults(command=_explain)
    return top


class _Version(argparse.Action):
    """Look the version up only when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="show the version and exit", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        try:
            version = metadata.version("vae-compat")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        sys.stdout.write(f"vae-compat {version}\n")
        parser.exit(OK)


def _add_subject(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hook under test")
    add = group.add_argument
    add(
        "--profile",
        action="append",
        metavar="FILE",
        help="profile, or the name of an embedded one (repeatable; default: "
        + " and ".join(DEFAULT_PROFILES)
        + ")",
    )
    add("--hook", metavar="FILE_OR_MODULE:ATTRIBUTE", help="the hook itself, without a profile")
    add("--kind", choices=["forward", "vae", "function"], help="of --hook (default: forward)")
    add(
        "--layout",
        choices=["diffusers", "ldm", "wan"],
        help="of --hook (default: ldm for forward, else diffusers)",
    )
    add("--host", metavar="NAME", help="stand-ins for what --hook's file imports: comfyui")
    add("--comfyui", metavar="PATH", help="use this ComfyUI checkout instead of stand-ins")


def _add_selection(parser: argparse.ArgumentParser, *, tiers: str) -> None:
    group = parser.add_argument_group("selection (lists are separated by commas)")
    add = group.add_argument
    add("--families", type=_names, metavar="LIST", help="sd, sdxl, flux, qwen, ...")
    add("--directions", type=_names, metavar="LIST", help="encode, decode")
    add("--modes", type=_names, metavar="LIST", help="exact, fast, color_fix, quadtree")
    add("--scale", type=_names, metavar="LIST", help="mock, real, probe")
    add("--tier", type=_names, metavar="LIST", help=f"{', '.join(TIERS)} (default: {tiers})")
    add("--full", action="store_true", help="every case, not a covering selection")
    add("--device", choices=DEVICES, help="where to run (default: sim, or that of --case)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--case", metavar="ID", help="exactly this case")
    add("-k", dest="expression", metavar="EXPR", help="only tests that match, as in pytest")
    add(
        "--weights",
        action="append",
        default=[],
        metavar="FAMILY=PATH_OR_ID",
        help="pretrained weights for the real scale (repeatable)",
    )
    add("--image", metavar="FILE", help="picture to use as input")
    add("--seed", type=_whole, default=0, metavar="N", help="of weights and inputs (default: 0)")
    add("-n", dest="workers", type=_whole, metavar="N", help="processes (default: one a core)")
    add("--timeout", type=_seconds, metavar="SECONDS", help="for one case")
    add("--out", default="reports/out", metavar="DIR", help="default: reports/out")
    add("--junitxml", metavar="FILE", help="write JUnit XML as well")
    add(
        "--against", metavar="FILE", help="results.json of an earlier run: fail where it was better"
    )
    add("-v", "--verbose", action="store_true", help="name every test, show tracebacks")


def _settle_device(options: argparse.Namespace) -> None:
    """The device that was asked for, else that of the one case to run, else the simulated one."""
    if getattr(options, "device", "") is None:
        last = (getattr(options, "case", None) or "").rpartition("-")[2]
        options.device = last if last in DEVICES else "sim"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is negative: give a whole number from 0")
    return number


# argparse names the type in its message
_whole.__name__ = "whole number"


def _seconds(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0: give seconds")
    if number > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"'{text}' is too long: give up to {MOST_SECONDS} seconds")
    return number


_seconds.__name__ = "number of seconds"


def _run(options: argparse.Namespace) -> int:
    from vae_compat.launch import launch

    return launch(options)


def _list(options: argparse.Namespace) -> int:
    from vae_compat import listing

    sys.stdout.write(listing.render(options))
    sys.stdout.flush()
    return OK


def _explain(options: argparse.Namespace) -> int:
    from vae_compat.explain import explain

    sys.stdout.write(explain(options.word) + "\n")
    sys.stdout.flush()
    return OK


if __name__ == "__main__":
    sys.exit(main())
