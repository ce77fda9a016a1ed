"""The ``vae-compat`` command: ``run``, ``nightly``, ``list``, ``report``, ``merge``, ``compare``,
``history``, ``explain``, ``init``, ``doctor``, ``annotate``.

Nothing heavy is imported before the command line is known to be right: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vae_compat.contracts.cases import Layout
from vae_compat.errors import UsageError
from vae_compat.front.ending import answered, open_streams, outlive_readers
from vae_compat.front.run.interrupts import ignore_requests
from vae_compat.vocabulary import DEFAULT_PROFILES, DEFAULT_TIERS, Device, ExitCode, Tier

if TYPE_CHECKING:
    from vae_compat.front.selection.options import Options

MOST_SECONDS = 1_000_000
"""Longest time limit of a case: the system's timers take little more."""
DEVICES = tuple(map(str, Device))
TIERS = tuple(map(str, Tier))
KINDS = ("forward", "vae", "function", "ranks")
HISTORY = Path("reports/out/history")
_OF_A_RUN = "its folder, results.json or records.jsonl"


class _Parser(argparse.ArgumentParser):
    """One line on stderr instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit code."""
    return answered(lambda: _commanded(arguments), running=_runs(arguments or sys.argv[1:]))


def console() -> int:
    """`main` of a process that ends with it: no request to stop changes what was told."""
    open_streams()
    if _runs(sys.argv[1:]):
        outlive_readers()
    code = main()
    ignore_requests()
    return code


def _runs(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[0] in ("run", "nightly")


def _commanded(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    return _parsers()[0]


def commands() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    return _parsers()[1]


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    top = _Parser(
        prog="vae-compat",
        allow_abbrev=False,
        description="Does a tiled VAE still equal the VAE, and does it really save VRAM?",
        epilog="exit codes: 0 the gate holds, 1 it does not, 2 wrong use, nothing was run,"
        " 3 the harness failed or was interrupted",
    )
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", allow_abbrev=False, help="judge a hook")
    _add_subject(run)
    _add_selection(run, tiers=f"{','.join(DEFAULT_TIERS)}; all for one --case")
    _add_run(run)
    run.set_defaults(command=_run)

    nightly = commands.add_parser(
        "nightly",
        allow_abbrev=False,
        help="judge a hook by the whole matrix of all tiers, on cuda where there is one, and keep"
        " the run in a history",
    )
    _add_subject(nightly)
    _add_selection(nightly, tiers="all")
    _add_run(nightly)
    nightly.set_defaults(command=_nightly, full=True, tier=list(TIERS), history=str(HISTORY))

    listing = commands.add_parser("list", allow_abbrev=False, help="list what run would run")
    listing.add_argument(
        "what",
        nargs="?",
        default="cases",
        choices=["cases", "families", "checks", "metrics", "hooks"],
        help="what to list (default: cases)",
    )
    listing.add_argument("--ids", action="store_true", help="plain case ids, one a line")
    _add_subject(listing)
    _add_selection(listing, tiers="all")
    listing.set_defaults(command=_list)

    report = commands.add_parser(
        "report", allow_abbrev=False, help="render the reports of a run again from its log"
    )
    report.add_argument("folder", metavar="DIR", type=Path, help="--out of the run")
    _add_rendered(report)
    report.set_defaults(command=_report)

    merge = commands.add_parser(
        "merge", allow_abbrev=False, help="make one log, verdict and report of the shards of a run"
    )
    merge.add_argument(
        "folders", metavar="DIR", nargs="+", type=Path, help="--out of each shard, in any order"
    )
    merge.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="for the whole: another folder"
    )
    _add_rendered(merge)
    merge.set_defaults(command=_merge)

    compare = commands.add_parser(
        "compare", allow_abbrev=False, help="hold a run against an earlier one"
    )
    compare.add_argument("before", metavar="A", type=Path, help=f"the earlier run: {_OF_A_RUN}")
    compare.add_argument("after", metavar="B", type=Path, help="the later one")
    compare.set_defaults(command=_compare)

    history = commands.add_parser(
        "history", allow_abbrev=False, help="list the runs of a history, and what changed in it"
    )
    history.add_argument("folder", metavar="DIR", type=Path, help="--history of the runs")
    history.add_argument(
        "--accept", metavar="RUN", help="use this run as the reference although its gate failed"
    )
    _add_last(history)
    history.set_defaults(command=_history)

    explain = commands.add_parser(
        "explain", allow_abbrev=False, help="explain a word of the report"
    )
    explain.add_argument(
        "word",
        metavar="WORD",
        help="a check, metric, grade, status, column, mode, phase, mechanism, scenario, family or"
        " case id; a check is shown with the known-bad hooks that it has to catch",
    )
    explain.set_defaults(command=_explain)
    _add_init(commands.add_parser("init", allow_abbrev=False, help="write a profile and workflow"))
    doctor = commands.add_parser(
        "doctor", allow_abbrev=False, help="say what is installed here, and what it can judge"
    )
    doctor.set_defaults(command=_doctor)
    annotate = commands.add_parser(
        "annotate", allow_abbrev=False, help="print the failures of a run as GitHub shows them"
    )
    annotate.add_argument("folder", metavar="DIR", type=Path, help="--out of the run")
    annotate.set_defaults(command=_annotate)
    return top, commands.choices


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
        parser.exit(ExitCode.HOLDS)


def _add_init(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_hook(parser, "the hook (asked for on a terminal)", kind="what fits", host="what fits")
    add("--families", type=_names, metavar="LIST", help="that it claims (default: all)")
    add("--grade", metavar="GRADE", help="that plain tiles promise (default: exact)")
    add(
        "--profile",
        metavar="FILE",
        default="vae-compat.toml",
        help="to write (default: vae-compat.toml)",
    )
    add(
        "--workflow",
        metavar="FILE",
        default=".github/workflows/vae-compat.yml",
        help="to write (default: .github/workflows/vae-compat.yml)",
    )
    add("--no-workflow", action="store_true", help="write the profile alone")
    add(
        "--source",
        metavar="OWNER/NAME@REF",
        help="the repository on GitHub with vae-compat's action (default: what pip installed)",
    )
    add("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(command=_init)


def _add_hook(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str, *, kind: str, host: str
) -> None:
    """What a profile says of how a hook is loaded; ``kind`` and ``host`` are what is taken else."""
    add = parser.add_argument
    add("--hook", metavar="FILE_OR_MODULE:ATTRIBUTE", help=what)
    add("--kind", choices=KINDS, help=f"kind of the hook given by --hook (default: {kind})")
    add(
        "--layout",
        choices=tuple(map(str, Layout)),
        help="layout of the hook given by --hook (default: ldm for forward, else diffusers)",
    )
    add(
        "--host",
        metavar="NAME",
        help=f"stand-ins for what its file imports: comfyui, a1111 (default: {host})",
    )


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
    _add_hook(group, "the hook itself, without a profile", kind="forward", host="none")
    add("--comfyui", metavar="PATH", help="use this ComfyUI checkout instead of stand-ins")


def _add_selection(parser: argparse.ArgumentParser, *, tiers: str) -> None:
    group = parser.add_argument_group("selection (lists are separated by commas)")
    add = group.add_argument
    add("--families", type=_names, metavar="LIST", help="sd, sdxl, flux, qwen, ...")
    add("--directions", type=_names, metavar="LIST", help="encode, decode")
    add("--modes", type=_names, metavar="LIST", help="exact, fast, color_fix, quadtree")
    add("--scale", type=_names, metavar="LIST", help="mock, real, probe, trained")
    add("--tier", type=_names, metavar="LIST", help=f"{', '.join(TIERS)} (default: {tiers})")
    add("--full", action="store_true", help="every case, not a covering selection")
    add(
        "--shard",
        type=_shard,
        metavar="K/N",
        help="the K-th of N parts of equal cost; cases that share a baseline stay in one part"
        " (see vae-compat merge)",
    )
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
    add(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="minimum CPU-time limit of a call of the hook, raised to 30 x untiled's time where "
        "that is more (default: 120); also the time that it may wait without using the CPU "
        "(at most 60)",
    )
    add("--out", metavar="DIR", help="for records, results and summary (default: reports/out)")
    add(
        "--resume",
        metavar="DIR",
        help="go on with the run in this folder: same hook, selection, seed and versions",
    )
    add(
        "--history",
        metavar="DIR",
        help="keep the run here, and hold it against the last on the same device that held"
        f" (nightly: {HISTORY})",
    )
    _add_last(group)
    add(
        "--cache",
        metavar="DIR",
        help="keep truths and baselines here for later runs; share it among hooks that you trust",
    )
    add("-x", "--fail-fast", action="store_true", help="stop at the first failure")
    _add_rendered(parser)
    add("-v", "--verbose", action="store_true", help="name every test, show tracebacks")


def _add_last(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--last",
        type=_whole,
        default=7,
        metavar="N",
        help="runs of the history over which drift is looked for (default: 7)",
    )


def _add_rendered(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--junitxml", metavar="FILE", help="write JUnit XML as well")
    parser.add_argument(
        "--open", action="store_true", help="open index.html, the report, in a browser"
    )
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="results.json of an earlier run: fail if this run is worse than that one",
    )


def options_of(given: argparse.Namespace) -> Options:
    """The options of a command. Raises ``UsageError`` for lists and paths without anything."""
    from vae_compat.front.selection.options import Options

    values = vars(given).copy()
    values["scales"], values["tiers"] = values.pop("scale", None), values.pop("tier", None)
    for name in ("families", "directions", "modes", "scales", "tiers"):
        if values[name] == []:
            option = {"scales": "scale", "tiers": "tier"}.get(name, name)
            raise UsageError(f"--{option} is empty: give one or more names")
    for name in ("out", "junitxml", "against", "resume", "image", "comfyui", "history", "cache"):
        if values.get(name) is not None and not values[name].strip():
            raise UsageError(f"--{name} is empty: give a path")
    if values["device"] is None:
        last = (values.get("case") or "").rpartition("-")[2]
        values["device"] = last if last in DEVICES else str(Device.SIM)
    if values.get("resume") is not None and values["out"] not in (None, values["resume"]):
        raise UsageError("--resume and --out exclude each other: the run goes on where it was")
    if values["shard"] is not None and values.get("case") is not None:
        raise UsageError("--shard and --case exclude each other: a single case has no parts")
    if values.get("history") is not None:
        for name, why in (
            ("shard", "a history holds whole runs"),
            ("against", "a history says itself what a run is held against"),
            ("out", "a history has a folder for every run"),
        ):
            if values[name] is not None:
                raise UsageError(f"--history and --{name} exclude each other: {why}")
    return Options.of(values)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is negative: give a whole number from 0")
    return number


# argparse names the type in its message
_whole.__name__ = "whole number"


def _shard(text: str) -> str:
    from vae_compat.front.selection.sharding import Shard

    try:
        return str(Shard.of(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no shard: {error}") from None


def _seconds(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0: give seconds")
    if number > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"'{text}' is too long: give up to {MOST_SECONDS} seconds")
    return number


_seconds.__name__ = "number of seconds"


def _run(given: argparse.Namespace) -> int:
    options = options_of(given)

    from vae_compat.front.run.running import run

    return run(options)


def _nightly(given: argparse.Namespace) -> int:
    if given.device is None and given.case is None:
        from vae_compat.device import available_devices

        given.device = "cuda" if "cuda" in available_devices() else "sim"
    return _run(given)


def _compare(given: argparse.Namespace) -> int:
    from vae_compat.front.kept_runs.keeping import compared

    return compared(given.before, given.after)


def _history(given: argparse.Namespace) -> int:
    from vae_compat.front.kept_runs.keeping import shown

    return shown(given.folder, accept=given.accept, last=given.last)


def _list(given: argparse.Namespace) -> int:
    options = options_of(given)

    from vae_compat.front.selection import listing

    sys.stdout.write(listing.render(options, given.what, ids=given.ids))
    sys.stdout.flush()
    return ExitCode.HOLDS


def _report(given: argparse.Namespace) -> int:
    from vae_compat.front.kept_runs.reporting import report

    return report(given.folder, opened=given.open, **_rendered(given))


def _rendered(given: argparse.Namespace) -> dict[str, Path | None]:
    return {
        name: None if (told := getattr(given, name)) is None else Path(told)
        for name in ("junitxml", "against")
    }


def _merge(given: argparse.Namespace) -> int:
    from vae_compat.front.kept_runs.merging import merge

    return merge(given.folders, given.out, opened=given.open, **_rendered(given))


def _init(given: argparse.Namespace) -> int:
    from vae_compat.front.adopting.init import Wanted, init, terminal

    told = vars(given)
    same = ("hook", "kind", "layout", "host", "grade", "source", "force")
    wanted = Wanted(
        **{name: told[name] for name in same},
        families=None if given.families is None else tuple(given.families),
        profile=Path(given.profile),
        workflow=None if given.no_workflow else Path(given.workflow),
    )
    return init(wanted, terminal())


def _doctor(_: argparse.Namespace) -> int:
    from vae_compat.front.adopting.doctor import doctor

    return doctor()


def _annotate(given: argparse.Namespace) -> int:
    from vae_compat.front.kept_runs.annotating import annotate

    return annotate(given.folder)


def _explain(given: argparse.Namespace) -> int:
    from vae_compat.front.explaining.explain import explain

    sys.stdout.write(explain(given.word) + "\n")
    sys.stdout.flush()
    return ExitCode.HOLDS


if __name__ == "__main__":
    sys.exit(main())
