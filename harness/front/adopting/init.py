"""``vae-compat init``: a profile for a hook, and the workflow that judges it before every merge."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.contracts.cases import ESTIMATING, Direction, Layout
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.front.explaining.explain import closest
from vae_compat.subject.profile import HOSTS, Kind, Profile, name_of
from vae_compat.vocabulary import ExitCode, Grade

if TYPE_CHECKING:
    from vae_compat.subject.messages import HookFacts

PROFILE = Path("vae-compat.toml")
WORKFLOW = Path(".github/workflows/vae-compat.yml")
UNKNOWN = "OWNER/vae-compat@main"
"""Where the action comes from, where the installed package does not say it."""
_SOURCE = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
PROMISES = tuple(str(grade) for grade in Grade if grade is not Grade.BROKEN)

Ask = Callable[[str, str, Sequence[str]], str]
"""A question, its default answer, and the answers that there are (empty: any)."""


@dataclass(frozen=True)
class Wanted:
    """What is told beforehand; ``None`` for what is asked for, or found out."""

    hook: str | None = None
    kind: str | None = None
    layout: str | None = None
    host: str | None = None
    families: tuple[str, ...] | None = None
    grade: str | None = None
    source: str | None = None
    """``OWNER/NAME@REF``: the repository on GitHub that has the action."""
    profile: Path = PROFILE
    workflow: Path | None = WORKFLOW
    force: bool = False


def init(wanted: Wanted, ask: Ask | None = None) -> int:
    """Write both files and say so; ``ask`` is for a terminal.

    Raises ``UsageError`` where a file is there already, or the hook cannot be loaded.
    """
    _known(wanted.families or ())
    if wanted.grade is not None and wanted.grade not in PROMISES:
        raise UsageError(f"--grade: '{wanted.grade}' is none of {', '.join(PROMISES)}")
    if wanted.source is not None and not _SOURCE.fullmatch(wanted.source):
        raise UsageError(f"--source: '{wanted.source}' is not OWNER/NAME or OWNER/NAME@REF")
    for file in (wanted.profile, *filter(None, [wanted.workflow])):
        if file.exists() and not wanted.force:
            raise UsageError(f"'{file}' is there already: add --force to replace it")
    if wanted.hook is None:
        if ask is None:
            raise UsageError("there is no terminal to ask on: give --hook FILE_OR_MODULE:ATTRIBUTE")
        wanted = replace(wanted, hook=ask("the hook, FILE_OR_MODULE:ATTRIBUTE", "", ()))
    found, facts = look_at(wanted)
    if ask is not None:
        wanted = _completed(wanted, found, ask)
        found = replace(found, hook=replace(found.hook, layout=Layout(wanted.layout or "")))
    texts = {wanted.profile: profile_text(wanted, found, facts)}
    if wanted.workflow is not None:
        texts[wanted.workflow] = workflow_text(wanted)
    _check(texts[wanted.profile], wanted.profile)
    for file, text in texts.items():
        _write(file, text)
    _tell(wanted, found, facts)
    return ExitCode.HOLDS


def look_at(wanted: Wanted) -> tuple[Profile, HookFacts]:
    """The hook with the kind and host that fit it, and what a runner tells of it.

    Several kinds may fit: then the names of its parameters decide.

    Raises ``UsageError`` where none fits.
    """
    kinds = list(map(str, Kind)) if wanted.kind is None else [wanted.kind]
    refusals: list[UsageError] = []
    for host in (None, *HOSTS) if wanted.host is None else (wanted.host,):
        fitting: dict[str, tuple[Profile, HookFacts]] = {}
        for kind in kinds:
            try:
                fitting[kind] = _looked(wanted, kind, host)
            except UsageError as error:
                refusals.append(error)
        if fitting:
            first = next(iter(fitting.values()))
            return fitting.get(_usual_kind(first[1].parameters), first)
    told = str(refusals[-len(kinds)]).rstrip(".")
    otherwise = "if it was loaded the wrong way, --kind and --host say how"
    raise UsageError(told if wanted.kind else f"{told}; {otherwise}")


def _looked(wanted: Wanted, kind: str, host: str | None) -> tuple[Profile, HookFacts]:
    from vae_compat.subject.describing import described
    from vae_compat.subject.profile import profile_from_flags

    assert wanted.hook is not None
    profile = profile_from_flags(wanted.hook, kind, wanted.layout, host, modes=())
    return profile, described(profile)


def _usual_kind(parameters: Sequence[str]) -> str:
    """What an entry with these parameters is, going by their names."""
    if "direction" in parameters[:3]:
        return Kind.FUNCTION
    return Kind.VAE if parameters[:1] == ("vae",) else Kind.FORWARD


def _completed(wanted: Wanted, found: Profile, ask: Ask) -> Wanted:
    """What is wanted, with the answers to what was not told."""
    layout, grade, names = wanted.layout, wanted.grade, wanted.families
    if layout is None:
        question = f"the hook is of kind '{found.hook.kind}'; the module names that it expects"
        layout = ask(question, str(found.hook.layout), tuple(map(str, Layout)))
    if names is None:
        told = ask("families that it is for, with commas", ",".join(FAMILIES), ())
        names = tuple(name.strip() for name in told.split(",") if name.strip())
        _known(names)
    if grade is None:
        grade = ask("what it promises of plain tiles", PROMISES[0], PROMISES)
    workflow, source = wanted.workflow, wanted.source
    if workflow is not None and ask(f"write {workflow}", "yes", ("yes", "no")) == "no":
        workflow = None
    if workflow is not None and source is None:
        question = "the repository on GitHub that has vae-compat, OWNER/NAME@REF"
        source = ask(question, _installed_from() or UNKNOWN, ())
    return replace(
        wanted, layout=layout, families=names, grade=grade, workflow=workflow, source=source
    )


def _known(families: Sequence[str]) -> None:
    for name in families:
        if name not in FAMILIES:
            raise UsageError(f"'{name}' is no family{closest(name, FAMILIES)}")


def profile_text(wanted: Wanted, found: Profile, facts: HookFacts) -> str:
    """The profile, commented."""
    names = tuple(FAMILIES) if wanted.families is None else wanted.families
    promised = wanted.grade or PROMISES[0]
    grades = {
        str(mode): "degraded" if mode in ESTIMATING else promised
        for mode in facts.modes or found.claims.modes
    }
    return _rendered(
        "profile.toml.j2",
        name=name_of(found.hook.entry),
        entry=_entry(found.hook.entry, facts, wanted.profile.parent),
        kind=str(found.hook.kind),
        layout=str(found.hook.layout),
        host=found.hook.host,
        parameters=facts.parameters,
        families=list(names),
        directions=list(map(str, Direction)),
        grades=grades,
        caching=[name for name in names if FAMILIES[name].feature_cache],
        path=wanted.profile.as_posix(),
    )


def workflow_text(wanted: Wanted) -> str:
    """The workflow, commented."""
    repository, _, ref = _source(wanted).partition("@")
    action = f"{repository}/.github/actions/vae-compat@{ref or 'main'}"
    return _rendered("workflow.yml.j2", action=action, profile=wanted.profile.as_posix())


def _source(wanted: Wanted) -> str:
    return wanted.source or _installed_from() or UNKNOWN


def _installed_from() -> str | None:
    """``OWNER/NAME@COMMIT`` where pip has installed the package from GitHub (PEP 610)."""
    try:
        told = metadata.distribution("vae-compat").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    direct = json.loads(told or "{}")
    host, _, path = str(direct.get("url", "")).partition("://")[2].partition("/")
    if host.rpartition("@")[2] != "github.com" or "vcs_info" not in direct:
        return None
    return f"{path.removesuffix('.git').strip('/')}@{direct['vcs_info']['commit_id']}"


def _entry(entry: str, facts: HookFacts, folder: Path) -> str:
    """The entry as seen from the folder of the profile."""
    if facts.file is None:
        return entry
    file = Path(facts.file)
    place = file.parent if file.name == "__init__.py" else file
    path = Path(os.path.relpath(place, folder.resolve())).as_posix()
    return f"{path}:{entry.rpartition(':')[2]}"


def _rendered(template: str, **values: object) -> str:
    from vae_compat.reports.templating import environment

    # TOML and YAML: the filter writes strings that both read.
    templates = environment("vae_compat.front.adopting", autoescape=False)
    templates.filters["quoted"] = _quoted
    return templates.get_template(template).render(**values)


def _quoted(value: str | Iterable[str]) -> str:
    """A string, or a list of them, as TOML and YAML have it."""
    told = value if isinstance(value, str) else list(value)
    return json.dumps(told, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check(text: str, file: Path) -> None:
    """Refuse a profile that no run would take."""
    from vae_compat.subject.schema import parse_profile

    parse_profile(text, source=str(file), folder=file.resolve().parent)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"'{file}' cannot be written ({reason}): give another path") from None


def _tell(wanted: Wanted, found: Profile, facts: HookFacts) -> None:
    hook = found.hook
    host = f", host {hook.host}" if hook.host else ""
    modes = ", ".join(map(str, facts.modes))
    lines = [
        f"{hook.entry}: kind {hook.kind}, layout {hook.layout}{host}; modes {modes}",
        f"wrote {wanted.profile}: correct what it claims, then",
        f"  vae-compat run --profile {wanted.profile}",
    ]
    if wanted.workflow is not None:
        lines.append(f"wrote {wanted.workflow}")
        if _source(wanted) == UNKNOWN:
            lines.append(
                "  replace OWNER in it: this installation does not say where vae-compat is on"
                " GitHub (or give --source OWNER/NAME@REF)"
            )
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def terminal() -> Ask | None:
    """How to ask, where there is a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    from rich.prompt import Prompt

    def ask(question: str, default: str, answers: Sequence[str]) -> str:
        given = Prompt.ask(question, choices=list(answers) or None, default=default or None)
        return given or ask(question, default, answers)

    return ask
