"""Sound hooks pass all sequences of calls; what a hook carries over is reported with the call."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.checks.sequences import check_sequence
from vae_compat.contracts.cases import Direction, Layout, Scenario
from vae_compat.contracts.finding import Finding, Status
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.fixtures.specimens.resting import RestingTiler
from vae_compat.front.selection.subjects import load_subject
from vae_compat.matrix import generate
from vae_compat.measure.observation import Noise, Origin
from vae_compat.scenarios.calls import Interrupting, Interruption
from vae_compat.scenarios.rights import Right
from vae_compat.scenarios.scenes import SEQUENCES
from vae_compat.scenarios.sequence import SequenceObserved
from vae_compat.scenarios.stage import Player, Stopped
from vae_compat.subject.profile import profile_from_flags
from vae_compat.suites.selftest.playing import Stand
from vae_compat.suites.selftest.running import shared

pytestmark = pytest.mark.slow

CHUNKWISE = {Scenario.STREAMS, Scenario.CLEARED, Scenario.TURNS}
TOLD = {
    "keeps-statistics": (Scenario.SIZES, "in: call 2, of 9x7 latent pixels"),
    "resumes-work": (Scenario.INTERRUPTED, "in: call 3, another input after the interruption"),
    "interrupt-none": (Scenario.INTERRUPTED, "got None; should be 1x3x48x56 float32; in: call 2"),
    "last-built": (Scenario.BOTH_WAYS, "in: call 1, decode"),
    "first-once": (Scenario.TWICE, "in: call 2, the same again"),
    "own-copies": (Scenario.STREAMS, "in: chunk 1 of clip A"),
    "knows-list": (Scenario.CLEARED, "in: chunk 0 of clip B, in the cleared list"),
}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand(tmp_path_factory.mktemp("stand"), shared(tmp_path_factory) / "stand")


def judged(stand: Stand, name: str, scenario: str, **changes: Any) -> Finding:
    return stand.findings(name, scenario, **changes)["sequence"]


@pytest.mark.parametrize("scenario", SEQUENCES)
def test_sound_causal_hook_passes(stand: Stand, scenario: Scenario) -> None:
    found = judged(stand, "caching", scenario)
    assert found.status == Status.PASSED, found.message
    assert found.metrics["worst_ratio"] < 2
    assert found.metrics["steps"] >= 2


@pytest.mark.parametrize("scenario", [name for name in SEQUENCES if name not in CHUNKWISE])
@pytest.mark.parametrize("name", ["resting", "blending"])
def test_sound_hook_of_pictures_passes(stand: Stand, name: str, scenario: Scenario) -> None:
    found = judged(stand, name, scenario)
    assert found.status == Status.PASSED, found.message


@pytest.mark.parametrize("name", TOLD)
def test_what_is_carried_over_is_told_with_its_call(stand: Stand, name: str) -> None:
    scenario, told = TOLD[name]
    found = judged(stand, name, scenario)
    assert found.status == Status.FAILED
    assert told in found.message


@pytest.mark.parametrize("scenario", [Scenario.TURNS, Scenario.TAKEN_OFF])
def test_untiled_chunk_that_cannot_go_on_is_told(stand: Stand, scenario: Scenario) -> None:
    found = judged(stand, "parks-all", scenario, direction=Direction.ENCODE)
    assert found.status == Status.FAILED
    assert "same device" in found.message
    assert "untiled, after a tiled one" in found.message


@pytest.mark.parametrize("name", ["own-copies", "knows-list", "parks-all"])
def test_what_is_carried_over_does_not_show_in_a_single_clip(stand: Stand, name: str) -> None:
    findings = stand.findings(name, "clip")
    assert {f.check: f.message for f in findings.values() if f.status != Status.PASSED} == {}


def test_hook_that_does_not_tile_shows_nothing(stand: Stand) -> None:
    found = judged(stand, "ignores-tiling", "twice", height=4, width=32, tile=8)
    assert found.status == Status.NOT_JUDGED
    assert "tiles did not run" in found.message


class WearsOut(RestingTiler):
    """Changes a weight with each call."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = super().__call__(x, *args, **kwargs)
        self.net.conv_out.bias.add_(0.01)
        return result


class FallsBack(RestingTiler):
    """Calls the original forward after any ``RuntimeError``."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().__call__(x, *args, **kwargs)
        except RuntimeError:
            pass
        return self.net.original_forward(x, *args, **kwargs)


class Grows:
    """The forward of a hook of kind ``vae``, whose error grows with every call."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self.forward, self.calls = forward, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.forward(x) + 1e-3 * self.calls


def grows(vae: Any, tile_size: int) -> Callable[[], None]:
    vae.decoder.__dict__["forward"] = Grows(vae.decoder.forward)
    return lambda: vae.decoder.__dict__.pop("forward") and None


def added(stand: Stand, attribute: str, **more: Any) -> str:
    given = {"kind": "forward", "layout": "ldm", "grade": {"exact": "exact"}} | more
    kind, layout = given.pop("kind"), given.pop("layout")
    profile = profile_from_flags(
        f"{__file__}:{attribute}",
        kind,
        layout,
        name=attribute,
        families=("sd",),
        directions=("encode", "decode"),
        modes=("exact",),
        cache="none",
        **given,
    )
    stand.add(profile)
    return attribute


def test_call_with_the_hook_off_is_held_against_untiled(stand: Stand) -> None:
    found = judged(stand, added(stand, "WearsOut"), "taken_off")
    assert found.status == Status.FAILED
    assert "in: call 2, with the hook taken off" in found.message
    assert judged(stand, "resting", "taken_off").status == Status.PASSED  # on a VAE built anew


def test_interrupted_hook_may_fall_back(stand: Stand) -> None:
    found = judged(stand, added(stand, "FallsBack"), "interrupted")
    assert found.status == Status.PASSED, found.message
    assert found.metrics["steps"] == 3


def test_inexact_hook_is_held_against_itself(stand: Stand) -> None:
    given = {"kind": "vae", "layout": "diffusers", "grade": {"exact": "degraded"}}
    found = judged(stand, added(stand, "grows", **given), "twice")
    assert found.status == Status.FAILED
    assert "should be the hook's own, by itself" in found.message
    assert "in: call 2" in found.message


def test_interruption_comes_at_its_operation_and_only_there() -> None:
    with Interrupting() as counted:
        torch.ones(2).add(1).mul(2)
    with Interrupting(2) as stopped, pytest.raises(Interruption):
        torch.ones(2).add(1).mul(2)
    assert counted.count == 3
    assert not counted.done
    assert stopped.done
    with Interrupting(9) as never:
        torch.ones(2).add(1)
    assert not never.done


def test_sequence_that_was_not_interrupted_shows_nothing(stand: Stand) -> None:
    observed = stand.observed("resting", "interrupted")
    assert isinstance(observed, SequenceObserved)
    late = SequenceObserved(**vars(observed) | {"empty": "call 2 ended too early"})
    assert check_sequence(late).status == Status.NOT_JUDGED


def test_likeness_is_enough_only_after_inexact_chunks() -> None:
    truth = torch.linspace(-1, 1, 200, dtype=torch.float64).view(1, 1, 1, 10, 20)
    near, right = (truth + 0.1).float(), Right(truth.float(), truth, mixed=True)
    assert not right.step("a", "Tensor", near).strict
    step = Right(truth.float(), truth).step("a", "Tensor", near)
    assert step.strict
    assert step.error == Noise(pytest.approx(0.1), pytest.approx(0.1))
    assert Right(truth.float(), truth).step("a", "Tensor", near.half()).error is None


def test_bare_coders_are_for_hooks_that_take_their_place() -> None:
    profile = load_subject("reference")
    cases = generate(profile.claims, Layout.LDM, "sim", ("float32",))
    played = [case for case in cases if case.scenario in SEQUENCES]
    chunkwise = [case for case in played if case.scenario in CHUNKWISE]
    assert {case.family for case in chunkwise} == {"qwen", "wan21", "wan22"}
    assert len({case.family for case in played}) == 8
    both = [case for case in played if case.scenario is Scenario.BOTH_WAYS]
    assert {case.direction for case in both} == {Direction.DECODE}
    for case in chunkwise:
        sequence = SEQUENCES[case.scenario]
        assert sequence.applies(case, Promise(kind="forward"))
        assert not sequence.applies(case, Promise(kind="vae"))


def test_own_result_of_another_size_is_not_what_a_call_is_held_against() -> None:
    truth = torch.rand(1, 3, 1, 4, 4, dtype=torch.float64)
    right = Right(truth.float(), truth, alone=torch.zeros(1, 3, 1, 4, 3))
    assert right.step("call", "Tensor", truth.float()).error.rms < 1e-6


@pytest.mark.parametrize("left", [SystemExit, KeyboardInterrupt])
def test_whatever_raises_once_the_hook_is_off_is_its_failure(left: type[BaseException]) -> None:
    def act(_: Any) -> None:
        raise left

    player = Player(SimpleNamespace(seconds=5.0), SimpleNamespace(run=None), open_device("sim"))
    with pytest.raises(Stopped):
        player.bare(act)
    assert player.failure.kind == left.__name__


def test_what_hangs_once_the_hook_is_off_is_stopped() -> None:
    def spin(_: Any) -> None:
        while True:
            pass

    player = Player(SimpleNamespace(seconds=0.05), SimpleNamespace(run=None), open_device("sim"))
    with pytest.raises(Stopped):
        player.bare(spin)
    assert player.failure.origin is Origin.LIMIT


def test_work_of_a_single_operation_is_never_interrupted() -> None:
    assert not Interrupting(0).done
