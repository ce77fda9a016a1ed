"""Finds wrong use: checks everything about the options before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vae_compat.contracts.caseid import record_id
from vae_compat.contracts.cases import Case, Direction, Mode, Scale
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.families.installed import left_out
from vae_compat.front.explaining.explain import check_docs, closest, parse_case
from vae_compat.front.selection.cases import cases_of, left_out_of
from vae_compat.front.selection.files import (
    check_file_in,
    check_folder,
    check_regular,
    check_writable,
)
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.sharding import groups_of
from vae_compat.front.selection.subjects import HookUnderTest, resolve
from vae_compat.subject.profile import Profile
from vae_compat.vocabulary import Device, Tier

WRITTEN = ("records.jsonl", "results.json", "summary.md", "memory.svg", "index.html")
"""What a run leaves in its folder."""


def validate(options: Options) -> tuple[HookUnderTest, ...]:
    """Refuse wrong options, cheapest checks first; returns the hooks that they name.

    Raises ``UsageError``.
    """
    check_selection(options)
    if options.case is not None:
        parse_case(options.case)
    check_output(options.out, options.junitxml)
    if options.resume is not None and not options.resume.is_dir():
        raise UsageError(f"--resume {options.resume}: there is no such folder: check the path")
    if options.cache is not None:
        check_folder("--cache", options.cache)
    for text in options.weights:
        _check_weights(text)
        if options.cache is not None and not Path(text.partition("=")[2]).exists():
            raise UsageError(
                f"--cache: which weights '{text}' stands for may change: give a file or a folder"
            )
    if options.image is not None:
        check_regular("--image", options.image)
    if options.expression is not None:
        _check_expression(options.expression)
    check_against(options.against, options.out)
    if options.resume is not None:
        from vae_compat.reports.log import read_log

        read_log(options.resume)
    _check_device(options.device)
    found = resolve(options)
    _check_matrix(found, options)
    _check_contents(options)
    return found


def check_selection(options: Options) -> None:
    """Refuse unknown words in the lists that select cases and checks."""
    for option, given, known in (
        ("--families", options.families, list(FAMILIES)),
        ("--directions", options.directions, list(Direction)),
        ("--modes", options.modes, list(Mode)),
        ("--scale", options.scales, list(Scale)),
        ("--tier", options.tiers, list(Tier)),
    ):
        _check_words(option, given, known)


def check_profiles(profiles: Sequence[Profile]) -> None:
    """Refuse profiles that claim nothing, because there would be nothing to judge."""
    for profile in profiles:
        if not (profile.claims.families and profile.claims.directions and profile.claims.modes):
            raise UsageError(
                f"{profile.source} claims nothing: list at least one of each of families,"
                " directions and modes in [claims]"
            )


def check_known_failures(profile: Profile, ids: Sequence[str]) -> None:
    """Refuse a known failure that matches no check of any case of the whole matrix."""
    if not profile.known_failures:
        return
    records = [record_id(check, case) for check in check_docs() for case in ids]
    for failure in profile.known_failures:
        if not any(map(failure.matches, records)):
            raise UsageError(
                f"{profile.source}: the known failure '{failure.id}' matches no check of any"
                " case: correct it or remove it (see vae-compat list --full)"
            )


def check_some(selected: Sequence[Case], missing: Sequence[str] = ()) -> None:
    """Refuse a selection of nothing; ``missing`` says which families could not be selected."""
    if not selected:
        raise UsageError(
            "the selection leaves no case: widen --families, --directions, --modes or --scale, or"
            " add --full (see vae-compat list)" + "".join(f"; {sentence}" for sentence in missing)
        )


def _check_words(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for word in given:
        if word not in known:
            raise UsageError(f"{option}: '{word}' is unknown{closest(word, known)}")


def check_output(out: Path, junitxml: Path | None) -> None:
    """Refuse folders and files that reports cannot be written to."""
    check_folder("--out", out)
    check_file_in(out, WRITTEN)
    if junitxml is not None:
        check_writable("--junitxml", junitxml)


def check_against(against: Path | None, out: Path) -> None:
    """Refuse an earlier run that is none, or that this one would overwrite.

    It would be held against itself when it is repeated, and every regression would pass.
    """
    if against is None:
        return
    from vae_compat.reports.results import FILE_NAME, read

    read(against)
    file = against / FILE_NAME if against.is_dir() else against
    written = out / FILE_NAME
    if file.resolve() == written.resolve() or (written.exists() and file.samefile(written)):
        raise UsageError(
            f"--against {against} is where this run writes its own results: keep a copy of it"
            " elsewhere, or give another --out"
        )


def _check_weights(text: str) -> None:
    family, equals, source = text.partition("=")
    if not equals or not source:
        raise UsageError(f"--weights '{text}': give FAMILY=PATH_OR_ID, as in sd=vae.safetensors")
    _check_words("--weights", [family], list(FAMILIES))
    path = Path(source)
    if os.path.isdir(source):  # noqa: PTH112 - Path's may raise
        for file in (*path.glob("**/*.safetensors"), *path.glob("**/config.json")):
            check_regular("--weights", file)
        if not list(path.glob("**/*.safetensors")):
            raise UsageError(
                f"--weights: there are no safetensors in '{path}': give another folder"
            )
    elif os.path.exists(source):  # noqa: PTH110
        check_regular("--weights", path)
        _check_safetensors(path)
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


def _check_device(device: str) -> None:
    if device != Device.CUDA:
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here: use sim or cpu")


def _check_expression(expression: str) -> None:
    # If pytest met this error, every worker would report it as a failure of pytest itself.
    from _pytest.mark.expression import Expression

    try:
        Expression.compile(expression)
    except SyntaxError as error:
        raise UsageError(
            f"-k '{expression}' is no expression of pytest ({error.msg}): give for instance"
            " 'parity and not wan22'"
        ) from None
    except (RecursionError, MemoryError):
        raise UsageError(f"-k '{expression[:40]}...' is nested too deep: simplify it") from None


def _check_matrix(found: Sequence[HookUnderTest], options: Options) -> None:
    """Find every case that the options or the profiles name."""
    whole = {
        under.told: [case.id for case in cases_of(under, options, full=True, anywhere=True)]
        for under in found
    }
    for under in found:
        check_known_failures(under.profile, whole[under.told])
    check_profiles([under.profile for under in found])
    by_hook = [
        (
            under.profile,
            list(filter(options.selection.admits, cases_of(under, options, full=options.full))),
        )
        for under in found
    ]
    selected = [case for _, cases in by_hook for case in cases]
    if options.case is not None:
        selected = [case for case in [parse_case(options.case)] if case.family not in left_out()]
    check_some(selected, left_out_of(found, options))
    if options.shard is not None:
        groups_of(options, by_hook)
    for text in options.weights:
        family = text.partition("=")[0]
        if not any(case.scale is Scale.REAL and case.family == family for case in selected):
            raise UsageError(
                f"--weights {text}: the selection has no case of {family} at real scale, which"
                " alone uses them: add --full, widen --families and --scale, or leave it out"
            )
    if options.case is not None and not any(options.case in ids for ids in whole.values()):
        names = " or ".join(under.profile.hook.name for under in found)
        raise UsageError(
            f"--case {options.case} is no case of {names}: choose one of vae-compat list --full"
        )


def _check_contents(options: Options) -> None:
    """Read pictures and weights completely; done last, because weights are large."""
    if options.image is not None:
        from vae_compat.fixtures.inputs import open_picture

        open_picture(options.image)
    for text in options.weights:
        from vae_compat.fixtures.vaes import load, parse_weights

        load(*parse_weights(text))
