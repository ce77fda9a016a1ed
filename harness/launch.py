"""``vae-compat run``: check everything that can be checked at once, then hand over to pytest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.cases import Direction, Mode, Scale
from vae_compat.cli import DEFAULT_PROFILES, DEFAULT_TIERS, FAILS, HARNESS, OK, TIERS, USAGE
from vae_compat.errors import UsageError
from vae_compat.explain import check_docs, closest, parse_case
from vae_compat.families import FAMILIES

if TYPE_CHECKING:
    from vae_compat.subject.profile import Profile

# pytest's codes: 2 interrupted, 3 internal error, 4 wrong use, 5 no tests collected. The plugin
# sets 0 and 1 itself, by the gate.
_EXIT_CODES = {0: OK, 1: FAILS, 4: USAGE, 5: USAGE}


def launch(options: argparse.Namespace) -> int:
    """Run the suites and return the exit code of the gate.

    Raises ``UsageError`` for whatever is wrong with the options, before anything has run.
    """
    _set_environment(options.device)
    validate(options)
    arguments = pytest_arguments(options)

    import pytest

    return _EXIT_CODES.get(int(pytest.main(arguments)), HARNESS)


ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(128 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""Has glibc keep some freed memory: else every activation is fetched from the system page by page,
a quarter of the CPU time of a run. Read at the start of a process, so by the workers."""


def _set_environment(device: str) -> None:
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    os.environ.pop("PYTEST_ADDOPTS", None)  # an adopter's, for tests of their own
    if device != "cuda":  # the simulated accelerator must not hide a real one: there is none then
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def validate(options: argparse.Namespace) -> None:
    """Refuse wrong options, cheapest checks first."""
    check_selection(options)
    if options.case is not None:
        parse_case(options.case)
    _check_tiers(_tiers(options))
    _check_out(options.out)
    if options.junitxml is not None:
        _check_junit(options.junitxml)
    for text in options.weights:
        _check_weights(text)
    if options.image is not None:
        _check_image(Path(options.image))
    if options.expression is not None:
        _check_expression(options.expression)
    if options.against is not None:
        from vae_compat.reports.results import read

        read(Path(options.against))
    if options.hook is not None:
        options.tell(options.hook)
    found = profiles(options)
    _check_device(options.device)
    _check_matrix(found, options)
    options.tell("")


def check_selection(options: argparse.Namespace) -> None:
    """Refuse unknown words in the lists that select cases and checks."""
    for option, given, known in (
        ("--families", options.families, list(FAMILIES)),
        ("--directions", options.directions, list(Direction)),
        ("--modes", options.modes, list(Mode)),
        ("--scale", options.scale, list(Scale)),
        ("--tier", options.tier, TIERS),
    ):
        _check_words(option, given, known)


def profiles(options: argparse.Namespace) -> list[Profile]:
    """The hooks under test that the options name, or the embedded default subject."""
    from vae_compat.subject.profile import profile_from_flags

    flags = {name: getattr(options, name) for name in ("kind", "layout", "host")}
    if options.comfyui is not None and not (Path(options.comfyui) / "comfy").is_dir():
        raise UsageError(
            f"--comfyui {options.comfyui} is no ComfyUI checkout: it has no folder 'comfy'"
        )
    if options.hook is None:
        given = [f"--{name}" for name, value in flags.items() if value is not None]
        if given:
            raise UsageError(
                f"{given[0]} describes --hook, which is not given: give --hook as well"
            )
        return [load_subject(name) for name in options.profile or DEFAULT_PROFILES]
    if options.profile:
        raise UsageError("--hook and --profile exclude each other: give one of them")
    comfyui = None if options.comfyui is None else Path(options.comfyui)
    return [
        profile_from_flags(
            options.hook,
            flags["kind"] or "forward",
            flags["layout"],
            flags["host"],
            comfyui=comfyui,
        )
    ]


def load_subject(name: str) -> Profile:
    """A profile by the name of an embedded one, or by its path."""
    from vae_compat.subject.profile import embedded_names, load_embedded, load_profile

    folders = subject_folders()
    names = embedded_names(*folders)
    if name in names:
        return load_embedded(name, *folders)
    path = Path(name)
    if not path.exists() and path.suffix != ".toml":
        raise UsageError(
            f"--profile {name} is neither a file nor an embedded profile{closest(name, names)}"
        )
    return load_profile(path)


def subject_folders() -> tuple[Path, ...]:
    """Folders of embedded profiles besides the harness' own: the specimens'."""
    from vae_compat import fixtures

    return tuple(Path(folder) / "specimens" for folder in fixtures.__path__)


def pytest_arguments(options: argparse.Namespace) -> list[str]:
    """The command line of the run as pytest takes it."""
    suites = _suites()
    arguments = [str(suites / tier) for tier in _tiers(options)]
    # Neither the configuration nor the cache of the folder we happen to be in: it is an adopter's.
    arguments += ["-c", os.devnull, "--rootdir", str(suites.parent), "-p", "no:cacheprovider"]
    arguments += ["-p", "vae_compat.plugin", "--import-mode=importlib", "--no-header", "-rN"]
    arguments += ["-v", "--tb=short"] if options.verbose else ["-q", "--tb=no"]
    arguments += ["-p", "no:benchmark"]
    workers = _workers(options)
    arguments += ["-n", str(workers)]
    # Every hook may lose some processes before it is given up (PATIENCE in workbench.py); xdist's
    # own limit would end the run with cases untried.
    hooks = len(options.profile or DEFAULT_PROFILES)
    arguments += [f"--max-worker-restart={hooks * (3 + workers) + 3}"]
    if options.expression is not None:
        arguments += ["-k", options.expression]
    if options.junitxml is not None:
        arguments += ["--junitxml", options.junitxml]
    return arguments + _plugin_arguments(options)


def _plugin_arguments(options: argparse.Namespace) -> list[str]:
    arguments: list[str] = []
    profiles = options.profile if options.hook is None else []
    for name in DEFAULT_PROFILES if profiles is None else profiles:
        arguments.append(f"--vae-profile={name}")
    single = {
        "hook": options.hook,
        "kind": options.kind,
        "layout": options.layout,
        "host": options.host,
        "comfyui": options.comfyui,
        "families": _joined(options.families),
        "directions": _joined(options.directions),
        "modes": _joined(options.modes),
        "scales": _joined(options.scale),
        "device": options.device,
        "image": options.image,
        "seed": options.seed,
        "out": options.out,
        "case": options.case,
        "timeout": options.timeout,
        "against": options.against,
    }
    arguments += [f"--vae-{name}={value}" for name, value in single.items() if value is not None]
    arguments += [f"--vae-weights={text}" for text in options.weights]
    # A single case may be any of the whole matrix.
    return arguments + (["--vae-full"] if options.full or options.case is not None else [])


def _joined(names: Sequence[str] | None) -> str | None:
    return None if names is None else ",".join(names)


def _workers(options: argparse.Namespace) -> int:
    """One process a core; a single case, or a GPU that all would share, wants one.

    Never none but on request: a hook that takes its process down must not take the run along.
    """
    if options.workers is not None:
        return int(options.workers)
    if options.case is not None or options.device == "cuda":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _suites() -> Path:
    """The suites as they are installed, so that a run works from any folder."""
    from vae_compat import suites

    return Path(next(iter(suites.__path__)))


def _check_words(option: str, given: Sequence[str] | None, known: Sequence[str]) -> None:
    if given is None:
        return
    if not given:
        raise UsageError(f"{option} is empty: give one or more of {', '.join(known)}")
    for word in given:
        if word not in known:
            raise UsageError(f"{option}: '{word}' is unknown{closest(word, known)}")


def _tiers(options: argparse.Namespace) -> Sequence[str]:
    """What was asked for; one case meets all of its checks, so that a command of a report does."""
    tiers: Sequence[str] | None = options.tier
    return tiers or (DEFAULT_TIERS if options.case is None else TIERS)


def _check_tiers(tiers: Sequence[str]) -> None:
    for tier in tiers:
        if not (_suites() / tier).is_dir():
            raise UsageError(f"--tier: there is no suite '{tier}' in this version: leave it out")


def _check_out(told: str) -> None:
    if not told.strip():
        raise UsageError("--out is empty: give a folder")
    folder = Path(told)
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"--out {folder}: '{place}' is a file, no folder: give another folder")
    if not os.access(place, os.W_OK):
        raise UsageError(f"--out {folder}: '{place}' is not writable: give another folder")


def _check_junit(told: str) -> None:
    file = Path(told)
    if not told.strip() or file.is_dir():
        raise UsageError(f"--junitxml '{told}' is no file: give the path of a file to write")
    place = file
    while not place.exists() and place != place.parent:
        place = place.parent
    if place != file and not place.is_dir():
        raise UsageError(f"--junitxml {told}: '{place}' is a file, no folder: give another path")
    if not os.access(place, os.W_OK):
        raise UsageError(f"--junitxml {told}: '{place}' is not writable: give another path")


def _check_weights(text: str) -> None:
    family, equals, source = text.partition("=")
    if not equals or not source:
        raise UsageError(f"--weights '{text}': give FAMILY=PATH_OR_ID, as in sd=vae.safetensors")
    _check_words("--weights", [family], list(FAMILIES))
    path = Path(source)
    if path.is_file():
        _check_safetensors(path)
    elif path.is_dir():
        if not list(path.glob("**/*.safetensors")):
            raise UsageError(
                f"--weights: there are no safetensors in '{path}': give another folder"
            )
    elif path.suffix or path.is_absolute() or source.count("/") != 1:
        raise UsageError(
            f"--weights: '{source}' is neither a file or folder here nor a repository id"
            " (owner/name): check the path"
        )


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError):
        raise UsageError(
            f"--weights: '{path}' is no safetensors file: convert it, other formats are not read"
        ) from None


def _check_image(path: Path) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.verify()
    except FileNotFoundError:
        raise UsageError(f"--image: there is no file '{path}': check the path") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise UsageError(f"--image: '{path}' is no readable picture: give a PNG or JPEG") from None


def _check_device(device: str) -> None:
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here: use sim or cpu")


def _check_expression(expression: str) -> None:
    # Left to pytest, this error would come out of every worker as a failure of pytest itself.
    from _pytest.mark.expression import Expression

    try:
        Expression.compile(expression)
    except SyntaxError as error:
        raise UsageError(
            f"-k '{expression}' is no expression of pytest ({error.msg}): give for instance"
            " 'parity and not wan22'"
        ) from None


def _check_matrix(found: Sequence[Profile], options: argparse.Namespace) -> None:
    """Load every hook, and find every case that the options or the profiles name.

    A missing file or attribute must show before anything runs, and so must a known failure that
    is about no check of any case of the whole matrix.
    """
    from vae_compat.listing import cases_of, selection_of

    cases = []
    for profile in found:
        options.tell(profile.hook.name)
        cases.append({case.id for case in cases_of(profile, options, full=True)})
    for profile, ids in zip(found, cases, strict=True):
        records = [f"{check}[{case}]" for check in check_docs() for case in sorted(ids)]
        for failure in profile.known_failures:
            if not any(map(failure.matches, records)):
                raise UsageError(
                    f"{profile.source}: the known failure '{failure.id}' matches no check of any"
                    " case: correct it or remove it (see vae-compat list --full)"
                )
    for profile in found:
        if not (profile.claims.families and profile.claims.directions and profile.claims.modes):
            raise UsageError(
                f"{profile.source} claims nothing: list at least one of each of families,"
                " directions and modes in [claims]"
            )
    selection = selection_of(options)
    selected = [
        case
        for profile in found
        for case in cases_of(profile, options, full=options.full)
        if selection.admits(case)
    ]
    if options.case is not None:
        selected = [parse_case(options.case)]
    if not selected:
        raise UsageError(
            "the selection leaves no case: widen --families, --directions, --modes or --scale, or"
            " add --full (see vae-compat list)"
        )
    for text in options.weights:
        family = text.partition("=")[0]
        if not any(case.scale is Scale.REAL and case.family == family for case in selected):
            raise UsageError(
                f"--weights {text}: the selection has no case of {family} at real scale, which"
                " alone uses them: add --full, widen --families and --scale, or leave it out"
            )
    if options.case is not None and not any(options.case in ids for ids in cases):
        names = " or ".join(profile.hook.name for profile in found)
        raise UsageError(
            f"--case {options.case} is no case of {names}: choose one of vae-compat list --full"
        )
