"""What ``vae-compat explain`` answers: every word of a report, and case ids."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib import resources
from itertools import pairwise

from vae_compat.checks.metrics import METRICS, line_of, metric_of
from vae_compat.contracts.caseid import parse_case_id
from vae_compat.contracts.cases import (
    Case,
    Direction,
    Given,
    Layout,
    Mechanism,
    Mode,
    Scale,
    Scenario,
)
from vae_compat.contracts.finding import Grade, Phase
from vae_compat.contracts.mechanisms import EXPLANATION
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES, Family
from vae_compat.families.installed import left_out
from vae_compat.fixtures.specimens import known_bad
from vae_compat.front.explaining.thresholds import declared
from vae_compat.judge import Outcome
from vae_compat.reports.digest import MARKS
from vae_compat.subject.profile import HOSTS, Axes, Cache, Coder, Context, Kind, When
from vae_compat.vocabulary import Device, Dtype

GRADES: Mapping[Grade, str] = {
    Grade.EXACT: (
        "The hook is as right as the VAE itself: its distance from the float64 truth is at most"
        " twice the distance of the untiled result in the same dtype (worst element: within eight"
        " times the untiled worst element)."
    ),
    Grade.LOSSLESS: "No 8-bit level of the picture moves by more than one.",
    Grade.CLOSE: "PSNR of at least 40 dB against the untiled result, and no seam.",
    Grade.DEGRADED: (
        "Right shape and finite, visibly different, but still the same picture: its correlation"
        " with the truth is at least 0.25."
    ),
    Grade.BROKEN: (
        "No usable picture: an exception, a wrong shape, dtype or device, NaN, missing pixels,"
        " or one that has nothing to do with the truth (correlation below 0.25)."
    ),
}

TERMS: Mapping[str, str] = {
    "truth": "The result of the untiled VAE with the same weights and input in float64.",
    "floor": (
        "The VAE's own noise: how far its untiled result is from the truth in the dtype of the"
        " case, or the rounding of the result where that is more. It is drawn once. For a result"
        " that misses the bounds of `exact` by less than a factor of 100 it is the largest of nine"
        " draws: eight more on a VAE that no hook has been on, with an eighth of the input's"
        " values moved by one unit in the last place."
    ),
    "not judged": (
        "The check had nothing to judge, as after a crash. That proves nothing, so it counts as an"
        " error; where a known failure of the same case is why, it is skipped. `(see CHECK)` names"
        " the check that says more."
    ),
    "plane": (
        "Height x width of a tensor: what a convolution writes, or the whole latent or image."
    ),
    "level": "A step of an 8-bit picture: 1 of 255.",
    "weights": (
        "The parameters of the VAE. Peaks are counted over them; where tiles are judged, the shape"
        " of a weight names the convolutions that share it."
    ),
    "minimum": "The tier of what must not break: it loads, runs, and tiles.",
    "recommended": "The tier of what users see: the right output, and less memory for it.",
    "advanced": "The tier of what shows over time: clips, caches, sequences of calls, relations.",
}
MODES: Mapping[Mode, str] = {
    Mode.EXACT: "Plain tiles of one size, and no option of the hook switched on.",
    Mode.FAST: "`fast_decoder` or `fast_encoder`: statistics estimated from a small copy.",
    Mode.COLOR_FIX: "`fast_encoder` with `color_fix`: estimated up to the first downsampling.",
    Mode.QUADTREE: "`use_quadtree`: tiles as large as the content allows.",
}
COLUMNS: Mapping[str, str] = {
    "family": "A published VAE architecture; vae-compat list families names them all.",
    "encode": "From image to moments (mean and log-variance), in a mode; a cell says the outcome,"
    " the worst grade of its cases, and the highest VRAM as a fraction of untiled.",
    "decode": "From latent to image, in a mode; a cell reads as that of encode.",
    "n/m": "Not measured: the device could not tell how much VRAM was taken.",
    "-": "Not claimed, and refused or untiled, as it should be. An empty cell was not run.",
    "cache": "Worst cache behaviour seen on clips, of a hook with causal caches: a phase, and the"
    " highest VRAM of a clip as a fraction of untiled.",
    "x time": "Median time of the hook, divided by that of untiled in the same process, and the"
    " least and most of single runs; for information, on cuda alone.",
    "outcome": "The worst status of all checks of a case.",
    "case": "The id of a case; vae-compat explain CASE_ID takes it apart.",
    "grade": "How close the result of a case is to the VAE's: exact, lossless, close, degraded or"
    " broken.",
    "repeat": "The command that runs the case alone, with all of its checks.",
    "where": "Family, direction and mode. A row without a family has the highest of all families.",
    "PSNR": "Metric psnr: peak signal-to-noise ratio against the truth in dB.",
    "VRAM": "Metric vram_ratio: the peak over the weights, as a multiple of that of untiled; the"
    " highest of the cases that have to tile.",
    "FLOPs": "Metric flops_ratio: floating point operations as a multiple of those of untiled.",
    "launches": "Metric kernels over untiled_kernels: kernel launches as a multiple of untiled's.",
    "estimated time": "Metric estimated_time_ratio: what a GPU would take, as a multiple of what it"
    " would take untiled.",
    "time": "Metric time_ratio: what the GPU of the run took, as a multiple of untiled.",
}
"""Words at the head of tables, and in their cells, that are no words of a record."""
PLURALS: Mapping[str, str] = {
    "check": "Checks",
    "grade": "Grades",
    "status": "Statuses and their marks",
    "column": "Columns and cells of tables",
    "mode": "Modes",
    "term": "Terms",
    "phase": "Phases of a cache",
    "scenario": "Scenarios",
    "input": "Unusual inputs",
    "scale": "Scales",
    "claim": "Claims of a profile",
    "key": "Other keys of a profile",
    "mechanism": "Mechanisms",
}
"""The kinds of words, as headings."""


CLAIMS: Mapping[str, str] = {
    "families": "Published families that the hook claims; it must refuse the others.",
    "directions": "`encode`, `decode`, or both.",
    "modes": "Ways of tiling that the hook offers.",
    "grade": "`[claims.grade]`: what each mode promises, `exact` where nothing is said, `degraded`"
    " where the mode estimates.",
    "family_grade": "`[claims.family_grade.qwen]`: what a mode promises of this family.",
    "overlap": "`overlap = true`: the hook takes `tile_overlap` or `tile_stride` (check"
    " `overlaps`).",
    "ranks": "`ranks = [2, 3]`: numbers of processes that a hook of kind `ranks` works with.",
    "parks": "`parks = true`: caches that are split are offloaded between the chunks of a clip"
    " (check `cache_parked`).",
    "temporal": "`temporal = true`: clips are cut in time as well, so that a frame at a cut may"
    " lack some of its past (check `temporal_tiles`).",
    "slices": "`slices = true`: batches run item by item, and take no more memory than one.",
    "tile_multiple": "`tile_multiple = 128`: tile sizes are rounded to multiples of so many image"
    " pixels (check `requested_tile`).",
    "passes": "`passes = 3`: each plane is cut in so many ways and the results are averaged, which"
    " takes so many times the work (check `work`).",
    "bounds": "`[claims.bounds]`, `psnr`, `levels`, `seams`: what a degraded picture still"
    " promises, of every case.",
    "cost": '`[claims.cost]`, `time_ratio = 2.0`, `gpu = "h200"`: the estimated time on this GPU is'
    " at most so many times that of untiled (check `estimated_time`). `waits_per_tile = 1`: the"
    " host waits for the device at most so often for each tile. `host_memory = 1.5`: it holds at"
    " most so many times the bytes of the result (both: check `host_cost`).",
}
"""Keys of ``[claims]`` that take no word of a list."""


ASKED: Mapping[str, str] = {
    "cache": "What the hook does with the causal caches of video VAEs.",
    "when": "When the hook tiles at all: in every call, or where memory would not suffice.",
    "context": "Under which of torch's switches against gradients the hook is called; by default"
    " the host decides, and without one either must do.",
    "coders": "On which coders it works, or refuses, besides plain ones.",
    "axes": "Along which sides of a plane tiles are cut.",
}
"""Keys of ``[claims]`` that take a word of a list, with what the words answer."""


KEYS: Mapping[str, str] = {
    "hook": "`[hook]`: which hook is judged (`name`, `entry`), and how it is put on a VAE (`kind`,"
    " `layout`, `host`, `settings`).",
    "name": "What reports call the hook.",
    "entry": "`FILE_OR_MODULE:ATTRIBUTE`, which is called to put the hook on; files are relative to"
    " the folder of the profile.",
    "host": "The program whose modules the hook's file imports, and as which it is called:"
    f" {' or '.join(HOSTS)}. Without one it imports none.",
    "settings": "`[hook.settings]`: what the hook calls a keyword, where that is another name.",
    "claims": "`[claims]`: what the hook promises; it must refuse all else.",
    "known_failures": "`[[known_failures]]`: records (`id`, with `*` and `?`) that are expected to"
    " fail, with a `reason`, and a `link` if there is one. One that passes fails the run.",
}
"""Keys of a profile outside of ``[claims]``."""


def key_docs() -> dict[str, str]:
    """The keys of a profile outside of ``[claims]`` and their words, with what they say."""
    found = dict(KEYS)
    for key, options in {"kind": Kind, "layout": Layout}.items():
        docs = member_docs(options)
        found |= {word: f"Of `{key}`. {text}" for word, text in docs.items()}
        what = {"kind": "What the entry is", "layout": "Which module names the hook expects"}[key]
        found[key] = f"{what}: {', '.join(docs)}."
    for host in HOSTS:
        found[host] = f"Of `host`. Its modules have stand-ins (`--host {host}`)."
    return found


def claim_docs() -> dict[str, str]:
    """The keys and words of ``[claims]`` with what they say."""
    found = dict(CLAIMS)
    listed = {"cache": Cache, "when": When, "context": Context, "coders": Coder, "axes": Axes}
    for key, options in listed.items():
        docs = member_docs(options)
        found |= {word: f"Of `{key}`. {text}" for word, text in docs.items()}
        found[key] = f"{ASKED[key]} One of {', '.join(docs)}."
    return found


def explain(word: str) -> str:
    """Explain a word of a report, a case id, or the id of a record: its check and its case.

    Words are checks, metrics, grades, statuses, columns, modes, phases, mechanisms, scenarios,
    inputs, scales, claims and other keys of profiles, families and terms. Some are both a scenario
    and the check that is for it.

    Raises ``UsageError`` with the closest known words where the word is none of these.
    """
    check, bracket, case = word.partition("[")
    if bracket and case.endswith("]"):
        return f"{explain(check)}\n\n{_case(case.removesuffix(']'))}"
    name = word.removeprefix("check_")
    scale, _, part = name.partition(".")
    if scale in list(Scale) and part:  # as case ids have it: probe.halo, real.streams
        name = word = part
    texts = words()
    if (spaced := name.replace("_", " ")) in texts["term"]:
        name = spaced
    if (joined := name.replace(" ", "_")) in texts["key"]:
        name = joined
    found = [f"{kind} {name}\n\n{docs[name]}" for kind, docs in texts.items() if name in docs]
    if name in texts["check"]:
        found[1:1] = [declared(name), _known_bad(name)]
    if (metric := metric_of(name)) is not None:
        found.append(f"metric {line_of(metric[0])}")
    if name in FAMILIES:
        found.append(_family(FAMILIES[name]))
    if not found and "-" in word:
        found.append(_case(word))
    if found:
        return "\n\n".join(filter(None, found))
    known = [*(name for docs in texts.values() for name in docs), *METRICS, *FAMILIES]
    near = closest(word, known, otherwise="; `vae-compat list` names checks, metrics and families")
    raise UsageError(f"'{word}' is no word of a report, and no case id{near}")


def words() -> dict[str, Mapping[str, str]]:
    """The words of each kind, with what they mean."""
    return {
        "check": check_docs(),
        "grade": {str(grade): text for grade, text in GRADES.items()},
        "status": _statuses(),
        "column": dict(COLUMNS),
        "mode": {str(mode): text for mode, text in MODES.items()},
        "term": dict(TERMS),
        "phase": member_docs(Phase),
        "scenario": member_docs(Scenario),
        "input": member_docs(Given),
        "scale": member_docs(Scale),
        "claim": claim_docs(),
        "key": key_docs(),
        "mechanism": {str(mechanism): _mechanism(mechanism) for mechanism in Mechanism},
    }


def _statuses() -> dict[str, str]:
    """Each status, and its mark in the table."""
    docs = dict(member_docs(Outcome))
    return docs | {
        mark: f"{docs[status]} (status {status})"
        for status, mark in MARKS.items()
        if mark not in docs
    }


def closest(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """``: did you mean 'sdxl'?`` or, where nothing is near, ``otherwise`` or all that is known."""
    words = list(dict.fromkeys(map(str, known)))
    near = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    if near:
        return f": did you mean {' or '.join(repr(name) for name in near)}?"
    return f": give one of {', '.join(words)}" if otherwise is None else otherwise


@functools.cache
def check_docs() -> Mapping[str, str]:
    """Names of the checks with their docstrings, in the order of the source.

    Read from the source and not imported: the checks import torch, which takes seconds.
    """
    found: dict[str, str] = {}
    folder = resources.files("vae_compat.checks")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".py"):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(map(_declares, node.decorator_list)):
                text = ast.get_docstring(node) or "No description."
                found[node.name.removeprefix("check_")] = text
    return found


def _declares(decorator: ast.expr) -> bool:
    """Whether a decorator is ``@check(...)``."""
    match decorator:
        case ast.Call(func=ast.Name(id="check")):
            return True
    return False


@functools.cache
def member_docs(words: type[StrEnum]) -> Mapping[str, str]:
    """The words of an enumeration with the docstring under each of them in the source."""
    (owner,) = ast.parse(inspect.getsource(words)).body
    assert isinstance(owner, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in pairwise(owner.body):
        match node, after:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[words[name].value] = inspect.cleandoc(text).rstrip()
    return found


def parse_case(text: str) -> Case:
    """The case of an id, or of a record id ``check[case id]``.

    Raises ``UsageError`` that names the part which is wrong.
    """
    parts = parse_case_id(text)
    if parts is None:
        raise UsageError(
            f"'{text}' is no case id: it should read like"
            " sd-mock-ldm-decode-exact-40x40t16-b1-f1-float32-sim (see vae-compat list --ids)"
        )
    sets: Mapping[str, Iterable[str]] = {
        "family": FAMILIES,
        "scale": Scale,
        "layout": Layout,
        "mode": Mode,
        "dtype": Dtype,
        "device": Device,
    }
    for field, known in sets.items():
        value = getattr(parts, field)
        if value not in list(known):
            raise UsageError(f"'{value}' in '{text}' is no {field}{closest(value, known)}")
    probe = parts.scale == Scale.PROBE
    if probe and parts.part is None:
        raise UsageError(
            f"'{text}' is no case id: a probe has a mechanism, as in sd-probe.halo-ldm-decode-..."
        )
    if parts.scale == Scale.TRAINED and FAMILIES[parts.family].trained is None:
        having = ", ".join(name for name, family in FAMILIES.items() if family.trained)
        raise UsageError(f"'{text}' is no case: {having} alone have trained weights here")
    mechanism, _, scenario = (parts.part or "").partition(".") if probe else ("", "", parts.part)
    given = Given(scenario) if scenario in list(Given) and not probe else None
    words = [*Scenario, *([] if probe else Given)]
    if mechanism and mechanism not in list(Mechanism):
        raise UsageError(
            f"'{mechanism}' in '{text}' is no mechanism{closest(mechanism, Mechanism)}"
        )
    if scenario and scenario not in words:
        raise UsageError(f"'{scenario}' in '{text}' is no scenario{closest(scenario, words)}")
    if 0 in (parts.height, parts.width, parts.tile, parts.batch, parts.frames):
        raise UsageError(f"'{text}' is no case id: sizes, batch and frames start at 1")
    return Case(
        **{
            **{name: value for name, value in parts._asdict().items() if name != "part"},
            "scale": Scale(parts.scale),
            "layout": Layout(parts.layout),
            "direction": Direction(parts.direction),
            "mode": Mode(parts.mode),
            "mechanism": Mechanism(mechanism) if mechanism else None,
            "scenario": Scenario(scenario) if scenario and given is None else None,
            "given": given,
        }
    )


def _known_bad(check: str) -> str:
    """The known-bad hooks of a check, and the case in which each is caught."""
    hooks = [
        f"{hook.name}\n  hook {hook.entry}\n  case {hook.shows_on}" for hook in known_bad(check)
    ]
    return "\n".join(["Known-bad hooks that it has to catch:\n", *hooks]) if hooks else ""


def _mechanism(mechanism: Mechanism) -> str:
    if mechanism is Mechanism.STUB:
        return (
            "The probe without a mechanism: a mock VAE that only scales. Placing and blending of"
            f" tiles alone can change its result, and where it fails the report says:"
            f" {EXPLANATION[mechanism]}."
        )
    return (
        f"A probe of this mechanism is a mock VAE in which it alone is at work. Where its probe"
        f" fails and the stub, which has none, passes, the report says: {EXPLANATION[mechanism]}."
    )


_OVER = {"plane": "the plane", "channels": "the channels of a pixel"}


def _family(family: Family) -> str:
    frames = f", {family.temporal_ratio} image frames per latent frame" if family.frame_axis else ""
    caches = "causal feature caches" if family.feature_cache else "no caches"
    norms = ", ".join(f"{norm.kind}, over {_OVER[norm.axis]}" for norm in family.norms)
    missing = ", which is not installed: left out" if family.name in left_out() else ""
    return inspect.cleandoc(
        f"""
        family {family.name}: {family.title}

        class      {family.model_class} (diffusers); original layout {family.coder_layout}
        scale      {family.ratio} image pixels per latent pixel{frames}
        channels   {family.latent_channels} latent, {family.image_channels} image
        blocks     {family.blocks}, which read up to {family.receptive_field} latent pixels away
        norm       {norms}
        state      {caches}
        release    diffusers {family.since} or later{missing}
        trained    {_trained(family)}
        source     {family.source}
        """
    )


def _trained(family: Family) -> str:
    if family.trained is None:
        return "no weights ship here"
    sharing = [
        name
        for name, other in FAMILIES.items()
        if other.trained is not None and other.trained.file == family.trained.file
    ]
    return f"weights ship here, one net for {' and '.join(sharing)} (scale trained)"


def _case(text: str) -> str:
    case = parse_case(text)
    facts = case.facts
    size = f"{case.height} x {case.width} latent pixels ({_pixels(case)} image pixels)"
    part = f", probe of {case.mechanism}" if case.mechanism else ""
    part += f", scenario {case.scenario}" if case.scenario else ""
    part += f", input {case.given}" if case.given else ""
    lines = {
        "family": f"{case.family}: {facts.title}",
        "scale": f"{case.scale}{part}",
        "layout": f"{case.layout}",
        "does": f"{case.direction} in mode {case.mode}",
        "plane": size,
        "tile": f"{case.tile} latent pixels (the hook is given tile_size={case.tile_size})",
        "tiling": _tiling(case),
        "batch": f"{case.batch}",
        "frames": f"{case.frames} latent, {case.image_frames} image",
        "dtype": case.dtype,
        "device": case.device,
    }
    body = "\n".join(f"{name:<10} {value}" for name, value in lines.items())
    return f"case {case.id}\n\n{body}"


def _pixels(case: Case) -> str:
    return f"{case.height * case.facts.ratio} x {case.width * case.facts.ratio}"


def _tiling(case: Case) -> str:
    if case.fits_one_tile:
        return "the plane fits into one tile"
    return "more than one tile has to run" if case.must_tile else "one padded tile may do"
