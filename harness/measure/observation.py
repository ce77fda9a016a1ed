"""What one run of a case produced, and what the untiled VAE gives for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import CoderCall
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Reading


@dataclass(frozen=True)
class Noise:
    """Distance of a float result from the float64 truth."""

    rms: float
    worst: float

    def largest(self, *others: Noise | None) -> Noise:
        """The largest of several, rms and worst each by itself; what is not finite says nothing."""
        known = [each for each in (self, *others) if each and math.isfinite(each.rms)] or [self]
        return Noise(max(each.rms for each in known), max(each.worst for each in known))


Floors = Mapping[tuple[int | None, int | None], Noise]
"""The noise of all parts of a result: by item and frame ``(b, t)``, of a whole item ``(b, None)``,
of all `WHOLE`; ``(None, t)`` is that of the change from frame ``t - 1`` to ``t``."""
WHOLE = (None, None)


@dataclass(frozen=True)
class Baseline:
    """The untiled result of a case."""

    output: Tensor
    """The result, on the plain CPU, in the dtype of the case."""
    truth: Tensor
    """float64, on the plain CPU."""
    floor: Noise
    """Distance of ``output`` from ``truth``: the VAE's own noise. With further draws, the largest.
    """
    reading: Reading
    weight_bytes: int
    """Bytes of the parameters and buffers, live before the run."""
    input_bytes: int
    cpu_seconds: float = 0.0
    """CPU time of the untiled run, all threads together: what the time limits of a hook go by."""
    leaves: tuple[tuple[str, str], ...] = ()
    """What the untiled run itself changes in the VAE: module path and attribute."""
    further: Floors = field(default_factory=dict)
    """The largest noise of further draws, where some were made."""


class Origin(StrEnum):
    """Who ended a run of the hook."""

    HOOK = "hook"
    """An exception that came out of the hook's code, or out of code that it called."""
    HARNESS = "harness"
    """The harness found the hook unusable: it offers no such mode, or returned no plain tensor."""
    LIMIT = "limit"
    """It was cut short: it took too long, waited for nothing, or took too much memory."""
    DEATH = "death"
    """The process that ran the hook died."""
    NOT_RUN = "not_run"
    """Nobody: the hook was not run, because too many of its cases had been ended by a limit."""


@dataclass(frozen=True)
class Failure:
    """Why a run of the hook gave no result.

    What the checks decide by is worked out where the exception is caught, from the exception
    itself. ``kind``, ``message`` and ``traceback`` are for readers only.
    """

    kind: str
    """Type name of the exception."""
    message: str
    where: str
    """``file:line`` of the innermost frame that belongs to the hook, or of the innermost one."""
    traceback: str
    phase: str
    """``load``, ``put_on``, ``run`` or ``take_off``."""
    origin: Origin = Origin.HOOK
    deliberate: bool = False
    """Raised on purpose and with words, by a ``raise`` or an ``assert``: a refusal."""
    refuses_call: bool = False
    """The hooked coder cannot be called as its callers call it."""
    out_of_memory: bool = False
    """It says that memory ran out."""
    lost: bool = False
    """The process of the hook ended with it, so that nothing else is known of what it did."""

    @property
    def hung(self) -> bool:
        """Whether a limit ended the run: each further call would take as long."""
        return self.origin is Origin.LIMIT

    @property
    def unseen(self) -> bool:
        """Whether nothing is known of what the hook did: its process ended, or it was not run."""
        return self.lost or self.origin in (Origin.DEATH, Origin.NOT_RUN)


def untold(words: str) -> Failure:
    """The failure of a runner that reported no result, or none that can be examined."""
    return Failure("NoResult", words, "", "", "run", Origin.HARNESS)


@dataclass(frozen=True)
class Held:
    """A tensor that is still on the device."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    name: str = ""
    """The attribute that holds it, where it is one of an object: ``RestingTiler.last``."""

    def __str__(self) -> str:
        where = f" as {self.name}" if self.name else ""
        return f"{'x'.join(map(str, self.shape))} {self.dtype}{where}"


@dataclass(frozen=True)
class Times:
    """How long a hook and the untiled VAE took on one GPU, in one process, in seconds."""

    hook: tuple[float, ...]
    """One a run, after some that do not count."""
    untiled: tuple[float, ...]

    @property
    def tell(self) -> bool:
        """Whether both times are usable: a runner may report anything."""
        return bool(self.hook) and bool(self.untiled) and min(*self.hook, *self.untiled) > 0

    @property
    def seconds(self) -> float:
        """The median of the hook."""
        return statistics.median(self.hook)

    @property
    def untiled_seconds(self) -> float:
        """The median of untiled."""
        return statistics.median(self.untiled)

    @property
    def ratio(self) -> float:
        """Ratio of the medians."""
        return self.seconds / self.untiled_seconds

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the largest ratio that single runs give."""
        return min(self.hook) / max(self.untiled), max(self.hook) / min(self.untiled)


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What the checks of every case look at; scenarios add what they have seen.

    Observations are compared by identity: what is computed from one is cached for that one.
    """

    case: Case
    promise: Promise
    failure: Failure | None = None
    repeat: str | None = None
    """Command that repeats this case."""
    printed: str = ""
    """The last output that the hook printed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation(Observed):
    """Everything the checks of a case of one run look at. One run of the hook fills it."""

    baseline: Baseline
    output: Tensor | None
    """The result, on the plain CPU; ``None`` where the hook raised or returned no tensor."""
    returned: str = "Tensor"
    """Type name of what the hook returned."""
    output_device: str | None = None
    """Where the hook left its result: ``cuda:0``, ``cpu``."""
    input_device: str | None = None
    reading: Reading = field(default_factory=Reading)
    calls: tuple[CoderCall, ...] = ()
    residue: tuple[str, ...] = ()
    """What differs in the VAE and in the process after the hook was taken off, in words."""
    input_changed: bool = False
    """Whether the hook wrote into the tensor that it was given."""
    held: tuple[Held, ...] = ()
    """Tensors that were still on the device, where more was live than before."""
    times: Times | None = None
    """``None`` where nothing was timed."""
    plain_tiles: Tensor | None = None
    """What overlapping tiles give that fade into each other; ``None`` where nobody asks."""
    conventions: tuple[ConventionResult, ...] | None = None
    """Filled for the one case per family, layout and direction that is called in every way."""


@dataclass(frozen=True)
class ConventionResult:
    """What came of calling a hooked coder in one convention."""

    convention: str
    failure: Failure | None
    shape: tuple[int, ...] | None
    expected_shape: tuple[int, ...]
    finite: bool
    index: tuple[object, ...] = ()
    """Where ``feat_idx`` was after each call."""
    expected_index: tuple[object, ...] = ()
