"""What a run is asked for: one frozen object for command line, plugin, workers and Python API."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_compat.vocabulary import DEFAULT_PROFILES, DEFAULT_TIERS, Device, Tier

if TYPE_CHECKING:
    from vae_compat.matrix import Selection

SECONDS = 120.0
"""CPU seconds that any call of a hook may always take, even where untiled is much faster."""
_PATHS = frozenset({"comfyui", "image", "out", "junitxml", "against", "resume", "history", "cache"})


@dataclass(frozen=True)
class Options:
    """What a run was asked for, as plain values. Empty selections mean everything."""

    profile: tuple[str, ...] = ()
    """Paths, or names of embedded profiles."""
    hook: str | None = None
    kind: str | None = None
    layout: str | None = None
    host: str | None = None
    claims: Mapping[str, Any] | None = None
    """What ``hook`` claims, as in ``[claims]`` of a profile; by default all it has keywords for."""
    comfyui: Path | None = None
    families: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    full: bool = False
    device: str = str(Device.SIM)
    weights: tuple[str, ...] = ()
    """``FAMILY=PATH_OR_ID``, one for each family."""
    image: Path | None = None
    seed: int = 0
    case: str | None = None
    expression: str | None = None
    """An expression as for pytest's ``-k``."""
    workers: int | None = None
    """Processes; ``None`` for one a core."""
    timeout: float = SECONDS
    """CPU seconds that a call of a hook may take."""
    out: Path = Path("reports/out")
    junitxml: Path | None = None
    against: Path | None = None
    """results.json that must not get worse."""
    resume: Path | None = None
    """Folder of a run to resume."""
    shard: str | None = None
    """``K/N``: the part of the selection to run, as `sharding` splits it."""
    cache: Path | None = None
    """Folder in which truths and baselines are kept from run to run."""
    history: Path | None = None
    """Folder of a history in which to keep the run, and with whose runs to compare it."""
    last: int = 7
    """Runs of the history over which drift is looked for."""
    fail_fast: bool = False
    open: bool = False
    """Whether to show the report in a browser."""
    verbose: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """Options from parsed ones or JSON; unknown names and what is ``None`` are left out."""
        known = {field.name for field in fields(cls)}
        taken: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known or value is None:
                continue
            if name in _PATHS:
                value = Path(value)
            taken[name] = tuple(value) if isinstance(value, list) else value
        return cls(**taken)

    def to_json(self) -> str:
        """The form in which the processes of a run pass it on."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Options:
        """The same options again."""
        return cls.of(json.loads(text))

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles to judge; none where the hook is given itself."""
        return () if self.hook is not None else self.profile or DEFAULT_PROFILES

    @property
    def tiers_to_run(self) -> tuple[str, ...]:
        """The selected tiers; a single case gets all of its checks, so that it can be repeated."""
        return self.tiers or (DEFAULT_TIERS if self.case is None else tuple(map(str, Tier)))

    @property
    def whole_matrix(self) -> bool:
        """Whether every case is generated; a single case may be any of them."""
        return self.full or self.case is not None

    @property
    def selection(self) -> Selection:
        """The filters, which `vae_compat.front.selection.validation` has found right."""
        from vae_compat.contracts.cases import Direction, Mode, Scale
        from vae_compat.matrix import Selection

        return Selection(
            scales=frozenset(map(Scale, self.scales)) or frozenset(Scale),
            families=frozenset(self.families),
            directions=frozenset(map(Direction, self.directions)),
            modes=frozenset(map(Mode, self.modes)),
        )

    def subject_flags(self, name: str) -> list[str]:
        """The options that name this hook again, and all else that a repeated case depends on.

        The subject's own two come first.
        """
        own: tuple[str, ...] = ()
        if self.hook is None:
            flags = ["--profile", name]
        else:
            flags, own = ["--hook", self.hook, "--kind", self.kind or "forward"], ("layout", "host")
        for option in (*own, "comfyui", "device", "seed", "image", "timeout"):
            value = getattr(self, option)
            if value != getattr(Options, option):
                told = f"{value:.15g}" if isinstance(value, float) else str(value)
                flags += [f"--{option}", told]
        for text in self.weights:
            flags += ["--weights", text]
        return flags

    @property
    def described_selection(self) -> str:
        """``default`` or ``full``, with what narrowed it."""
        words = [
            f"{name} {','.join(given)}"
            for name in ("families", "directions", "modes", "scales")
            if (given := getattr(self, name))
        ]
        tiers = [str(tier) for tier in Tier if tier in self.tiers_to_run]
        usual = DEFAULT_TIERS if self.case is None else tuple(map(str, Tier))
        if tuple(tiers) != usual:
            words.append(f"tiers {','.join(tiers)}")
        if self.expression:
            words.append(f"-k {self.expression}")
        if self.case is not None:
            words.append(f"case {self.case}")
        return "; ".join(["full" if self.full else "default", *words])

    @property
    def fingerprint(self) -> str:
        """Identifies everything that changes baselines without being part of a case.

        Files count by what is in them, so that it is the same on every machine.
        """
        weights = [text.partition("=") for text in sorted(self.weights)]
        files = [(family, digest_of(Path(source)) or source) for family, _, source in weights]
        image = None if self.image is None else digest_of(self.image)
        told = [self.seed, files, image, metadata.version("torch")]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or of all weights and configurations in a folder; ``None`` for neither."""
    try:
        files = [path] if path.is_file() else sorted(_told_by(path))
        stamps = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _digest(tuple(files), stamps) if files else None
    except (OSError, ValueError):  # a path that the system rejects
        return None


def _told_by(folder: Path) -> list[Path]:
    return [*folder.glob("**/*.safetensors"), *folder.glob("**/config.json")]


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> str:
    """Kept for as long as size and time of change are the same: weights are large."""
    del stamps
    whole = hashlib.sha256()
    for each in files:
        with each.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
