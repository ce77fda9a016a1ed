"""Recommended: a run leaves memory, VAE, process and input as they were."""

from __future__ import annotations

from math import prod

from vae_compat.checks.comparing import teller_of
from vae_compat.checks.conditions import accelerator, claimed, single_run, whole_net
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import mebibytes
from vae_compat.contracts.finding import Tier
from vae_compat.device.ledger import ROUNDING, taken
from vae_compat.measure.observation import Observation

_WORKSPACE = 33 * 2**20
"""Bytes that cuBLAS keeps once it has been used (32 MiB on Hopper, 8 MiB before; CUDA
documentation, cublasSetWorkspace): a real device allocates them whenever the first product runs."""
_RAMPS = 8 * ROUNDING
"""Bytes of a few short weights, which on small planes are more than a hundredth of the output."""


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & accelerator)
def check_live_bytes(observation: Observation) -> Answer:
    """After a call as many bytes are live as before it, the output aside.

    While the hook is on it may refer to the last input that it was called with. Weights along one
    side of a tile may stay, up to 4 KiB or a hundredth of the output: they are made once.
    """
    before, after = observation.reading.live_before, observation.reading.live_after
    if before is None or after is None:
        return not_judged("live bytes were not measured", metrics={"live_bytes_left": None})
    left = after - before - _last_input(observation)
    slack = _WORKSPACE if observation.case.device == "cuda" else 0
    left = max(left - _ramps(observation), min(left, 0))
    if left > slack:
        return failed(
            f"{mebibytes(left)} ({left} bytes) still allocated after the run{_held(observation)}",
            "none beyond the output",
            metrics={"live_bytes_left": left},
        )
    if left < 0:
        return failed(
            f"{-left} bytes fewer live than before",
            "the weights and the input still where they were",
            metrics={"live_bytes_left": left},
        )
    return passed({"live_bytes_left": left})


@check(tier=Tier.RECOMMENDED, when=single_run & whole_net)
def check_left_behind(observation: Observation) -> Answer:
    """After the run, VAE and process are as they were before the hook was put on.

    Of the process: torch's switches, modes and random numbers, threads, environment, working
    directory and signals. What a library sets as it is imported for the first time does not count.
    """
    if (unseen := _unseen(observation)) is not None:
        return unseen
    if not observation.residue:
        return passed({"residue": 0})
    more = len(observation.residue) - 3
    listed = "; ".join(observation.residue[:3]) + (f"; and {more} more" if more > 0 else "")
    return failed(
        f"left behind: {listed}",
        "VAE and process as before",
        metrics={"residue": len(observation.residue)},
    )


@check(tier=Tier.RECOMMENDED, when=single_run & whole_net)
def check_input_untouched(observation: Observation) -> Answer:
    """The hook does not write to the tensor that it is given: the caller may need it."""
    if (unseen := _unseen(observation)) is not None:
        return unseen
    if observation.input_changed:
        return failed("the input changed in place", "left as it was given")
    return passed()


def _last_input(observation: Observation) -> int:
    """Bytes of an input that the hook still refers to, as a coder was called with it."""
    inputs = {call.shape for call in observation.calls if not call.original}
    sizes = [taken(held.nbytes) for held in observation.held if held.shape in inputs]
    return max(sizes, default=0)


def _ramps(observation: Observation) -> int:
    """Bytes of what is still there and has one side alone, as far as they may stay."""
    sides = (held for held in observation.held if max(held.shape, default=1) == prod(held.shape))
    kept = sum(taken(held.nbytes) for held in sides)
    return min(kept, max(_RAMPS, observation.baseline.output.nbytes // 100))


def _held(observation: Observation) -> str:
    """What is still there, in words."""
    return f": {', '.join(map(str, observation.held[:3]))}" if observation.held else ""


def _unseen(observation: Observation) -> Answer | None:
    """Why nothing is known of what the hook did; ``None`` where its whole run was observed."""
    failure = observation.failure
    if failure is None or not failure.unseen:
        return None
    told_by = teller_of(failure, observation)
    return not_judged(f"{failure.kind}: {failure.message}", blocked_by=told_by)
