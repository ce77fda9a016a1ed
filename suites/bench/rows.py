"""The cases on which the hook that ships here is measured, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale


@dataclass(frozen=True)
class Row:
    """One line of the table. Bounds are against untiled, sizes in image pixels."""

    work: str
    case: Case
    peak: float
    """Bytes over the weights."""
    flops: float
    time: float
    """For information: no run fails on it."""
    moved: float | None = None
    """Most MiB from host to device; where there is none, they are reported alone."""
    remark: str = ""
    rests: bool = False
    """Whether activations are forced to be offloaded to the host."""
    beside: bool = False
    """Whether the alternatives run beside."""
    truth: bool = True
    """Whether a float64 run is worth its time here."""

    @property
    def id(self) -> str:
        """Name of the test."""
        return self.work.replace(",", "").replace(" ", "-")


def _case(family: str, direction: Direction, pixels: int, tile: int, frames: int = 1) -> Case:
    sizes = (pixels // 8, pixels // 8, tile // 8)
    real, exact = Scale.REAL, Mode.EXACT
    return Case(family, real, Layout.DIFFUSERS, direction, exact, *sizes, frames=frames)


_ENCODE, _DECODE = Direction.ENCODE, Direction.DECODE
_STILL = {"peak": 0.12, "flops": 1.01, "time": 1.05}
_QWEN = _case("qwen", _DECODE, 512, 128)

ROWS = (
    Row(
        "SD decode 256 px, tiles 64",
        _case("sd", _DECODE, 256, 64),
        **_STILL,
        moved=700,
        beside=True,
    ),
    Row("SDXL decode 256 px, tiles 64", _case("sdxl", _DECODE, 256, 64), **_STILL, moved=700),
    Row("SD decode 512 px, tiles 128", _case("sd", _DECODE, 512, 128), **_STILL, truth=False),
    Row("Flux decode 256 px, tiles 64", _case("flux", _DECODE, 256, 64), **_STILL, moved=700),
    Row("SD encode 512 px, tiles 128", _case("sd", _ENCODE, 512, 128), 0.15, 1.02, 1.15),
    Row(
        "Qwen decode 512 px, tiles 128", _QWEN, 0.12, 1.01, 1.08, 0.1, "only the input", beside=True
    ),
    Row("Qwen decode 512 px, tiles 128, resting", _QWEN, 0.12, 1.02, 1.15, rests=True),
    Row("Qwen encode 512 px, tiles 128", _case("qwen", _ENCODE, 512, 128), 0.20, 1.60, 1.25),
    Row(
        "Wan 2.1 decode 9 frames 256 px, tiles 128",
        _case("wan21", _DECODE, 256, 128, frames=3),
        0.33,
        1.45,
        1.10,
        remark="input and parked caches",
    ),
    Row(
        "SD decode 1024 px, tiles 256",
        _case("sd", _DECODE, 1024, 256),
        **_STILL,
        beside=True,
        truth=False,
    ),
)
