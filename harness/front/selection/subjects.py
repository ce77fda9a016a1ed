"""The hooks under test: their profiles, and facts that only the hook itself can give."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vae_compat.contracts.cases import Mode
from vae_compat.errors import UsageError
from vae_compat.front.explaining.explain import closest
from vae_compat.front.selection.options import Options
from vae_compat.subject.profile import (
    Profile,
    embedded_names,
    load_embedded,
    load_profile,
    profile_from_flags,
)


@dataclass(frozen=True)
class Looked:
    """Facts about a hook that a run keeps, so as not to load it again."""

    modes: tuple[str, ...]
    """Modes it can be asked for, whether they are claimed or not."""
    sha256: str | None
    """Hash of its file, or of all files of its package; ``None`` where none is found."""
    commit: str | None
    """Commit of the file's repository, with ``+`` where files differ from it."""

    @property
    def offered_modes(self) -> tuple[Mode, ...]:
        """The same as the matrix takes them."""
        return tuple(map(Mode, self.modes))


@dataclass(frozen=True)
class HookUnderTest:
    """A hook under test as the command's process finds it and passes it to the others."""

    told: str
    """Its name on the command line: a profile's path or name, or the entry."""
    profile: Profile
    facts: Looked


def facts_of(profile: Profile, comfyui: Path | None) -> Looked:
    """Inspect a hook: a runner loads it and reports what it takes.

    Raises ``UsageError`` where it cannot be loaded.
    """
    from vae_compat.reports.results import commit_of
    from vae_compat.subject.describing import described

    try:
        modes = tuple(map(str, described(profile, comfyui).modes))
    except OSError as error:  # a path that the system rejects
        raise UsageError(
            f"the hook {profile.hook.entry!r:.120} cannot be found ({error.strerror}): check the"
            " path"
        ) from None
    file = file_of(profile)
    return Looked(modes, _digest(file), None if file is None else commit_of(file.parent, file))


def resolve(options: Options) -> tuple[HookUnderTest, ...]:
    """The hooks that the options name, each inspected once. Raises ``UsageError``."""
    found: list[HookUnderTest] = []
    for told, profile in profiles(options):
        facts = facts_of(profile, options.comfyui)
        found.append(HookUnderTest(told, _with_modes(profile, options, facts), facts))
    names = [under.profile.hook.name for under in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two hooks are named {name!r}: rename one in its profile")
    return tuple(found)


def profiles(options: Options) -> list[tuple[str, Profile]]:
    """The profiles that the options name, with those names; of flags alone it claims no mode yet.

    Nothing of a hook is loaded. Raises ``UsageError``.
    """
    if options.comfyui is not None and not (options.comfyui / "comfy").is_dir():
        raise UsageError(
            f"--comfyui {options.comfyui} is no ComfyUI checkout: it has no folder 'comfy'"
        )
    if options.hook is None:
        given = [name for name in ("kind", "layout", "host") if getattr(options, name) is not None]
        if given:
            raise UsageError(
                f"--{given[0]} describes --hook, which is not given: give --hook as well"
            )
        return [(name, load_subject(name)) for name in options.profiles]
    if options.profile:
        raise UsageError("--hook and --profile exclude each other: give one of them")
    return [(options.hook, _from_flags(options, ()))]


def _from_flags(options: Options, modes: Sequence[str]) -> Profile:
    assert options.hook is not None
    flags = (options.hook, options.kind or "forward", options.layout, options.host)
    plain = profile_from_flags(*flags, modes=modes, comfyui=options.comfyui)
    if options.claims is None:
        return plain
    from vae_compat.subject.schema import build_profile  # imports pydantic

    spec = {name: str(told) for name, told in asdict(plain.hook).items() if told}
    tables = {"hook": spec, "claims": dict(options.claims)}
    return build_profile(tables, source=plain.source, folder=plain.folder)


def _with_modes(profile: Profile, options: Options, facts: Looked) -> Profile:
    """A hook given by flags claims every mode that it can be asked for."""
    given = options.hook is None or options.claims is not None
    return profile if given else _from_flags(options, facts.modes)


def load_subject(name: str) -> Profile:
    """A profile by the name of an embedded one, or by its path."""
    folders = subject_folders()
    names = embedded_names(*folders)
    if name in names:
        return load_embedded(name, *folders)
    path = Path(name)
    if not os.path.exists(name) and path.suffix != ".toml":  # noqa: PTH110 - Path's may raise
        raise UsageError(
            f"--profile {name:.120} is neither a file nor an embedded profile{closest(name, names)}"
        )
    return load_profile(path)


def subject_folders() -> tuple[Path, ...]:
    """Folders of embedded profiles besides the harness' own: the specimens'."""
    from vae_compat import fixtures

    return tuple(Path(folder) / "specimens" for folder in fixtures.__path__)


def facts_to_json(under_test: Sequence[HookUnderTest]) -> str:
    """The facts, as the processes of a run hand them to each other."""
    return json.dumps([asdict(under.facts) for under in under_test])


def restored(options: Options, text: str) -> tuple[HookUnderTest, ...]:
    """The same hooks in another process, which does not inspect them."""
    facts = [Looked(**{**told, "modes": tuple(told["modes"])}) for told in json.loads(text)]
    return tuple(
        HookUnderTest(told, _with_modes(profile, options, known), known)
        for (told, profile), known in zip(profiles(options), facts, strict=True)
    )


def claims_digest(profile: Profile) -> str:
    """Hash of what a profile claims, what its hook calls settings, and which failures it knows."""
    told = json.dumps(asdict(profile.claims), sort_keys=True, default=str)
    settings = json.dumps(dict(profile.hook.settings), sort_keys=True)
    known = json.dumps([asdict(failure) for failure in profile.known_failures])
    return hashlib.sha256(f"{told}\n{settings}\n{known}".encode()).hexdigest()[:16]


def file_of(profile: Profile) -> Path | None:
    """The file that a hook is defined in, found without importing anything of it."""
    target = profile.hook.entry.rpartition(":")[0]
    path = profile.folder / Path(target).expanduser()
    if path.is_file():
        return path.resolve()
    if (path / "__init__.py").is_file():
        return (path / "__init__.py").resolve()
    if target.partition(".")[0] == __name__.partition(".")[0]:  # our own packages may be imported
        own = importlib.util.find_spec(target)
        return Path(own.origin).resolve() if own and own.origin else None
    search: Sequence[str] | None = [str(profile.folder)]
    found = None
    for part in target.split("."):
        if search is None or not part.isidentifier():
            return None
        first = found is None
        found = importlib.util.find_spec(part) if first else None
        found = found or importlib.machinery.PathFinder.find_spec(part, search)
        if found is None:
            return None
        where = found.submodule_search_locations
        search = None if where is None else list(where)
    origin = None if found is None else found.origin
    return Path(origin).resolve() if origin and Path(origin).is_file() else None


def _digest(file: Path | None) -> str | None:
    if file is None:
        return None
    package = file.name == "__init__.py"
    files = sorted(file.parent.rglob("*.py")) if package else [file]
    digest = hashlib.sha256()
    for each in files:
        digest.update(f"{each.relative_to(file.parent)}\n".encode(errors="surrogateescape"))
        digest.update(each.read_bytes())
    return digest.hexdigest()
