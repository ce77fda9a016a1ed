"""Each probe is broken by its own mechanism, and by no other.

Faults are put on single operations of the untiled VAE: each operation of the named kind is computed
in four pieces, each on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Case, Direction, Layout, Mechanism, Mode, Scale
from vae_compat.families import FAMILIES, Family
from vae_compat.fixtures import probes
from vae_compat.fixtures.inputs import make_input
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes import build, truth
from vae_compat.matrix import applies
from vae_compat.tiled_vae import VAEHook

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 8, 8

CELLS = [
    pytest.param(family, mechanism, direction, id=f"{family}-{mechanism}-{direction}")
    for family in ("sd", "qwen", "wan22")
    for mechanism in Mechanism
    for direction in Direction
    if applies(FAMILIES[family], mechanism, direction)
]


@dataclass(frozen=True)
class Run:
    """A probe, an input, and the untiled result."""

    probe: nn.Module
    x: Tensor
    direction: Direction
    output: Tensor
    truth: Tensor

    @property
    def floor(self) -> float:
        return rms(self.output - self.truth)

    def error(self, faults: Iterable[Mechanism]) -> float:
        """Distance from the truth with faults of these kinds, in noise floors."""
        return self._measured([part for fault in faults for part in break_(self.probe, fault)])

    def forgetting(self, convolutions: Iterable[nn.Module]) -> float:
        """The same distance if causal convolutions find zeros where earlier frames should be."""
        return self._measured([forget(convolution) for convolution in convolutions])

    def _measured(self, broken: Iterable[nn.Module]) -> float:
        try:
            return rms(run(self.probe, self.direction, self.x) - self.truth) / self.floor
        finally:
            for module in broken:
                module.__dict__.pop("forward", None)


@pytest.mark.parametrize(("family", "mechanism", "direction"), CELLS)
def test_output_is_lively_and_inside_the_range(
    family: str, mechanism: Mechanism, direction: Direction
) -> None:
    picture = untiled(family, mechanism, direction).output
    contrast = picture.flatten(2).std(2)
    assert contrast.min() > 0.1
    assert 0.1 < contrast.mean() < 1
    if direction is Direction.DECODE and FAMILIES[family].frame_axis:
        assert (picture.abs() >= 1).double().mean() < 0.01


@pytest.mark.parametrize(("family", "mechanism", "direction"), CELLS)
def test_own_fault_shows_far_above_the_noise(
    family: str, mechanism: Mechanism, direction: Direction
) -> None:
    if mechanism is Mechanism.STUB:
        pytest.skip("a stub has no fault of its own")
    assert untiled(family, mechanism, direction).error([mechanism]) > 100


@pytest.mark.parametrize(("family", "mechanism", "direction"), CELLS)
def test_all_other_faults_together_stay_within_the_noise(
    family: str, mechanism: Mechanism, direction: Direction
) -> None:
    others = [other for other in Mechanism if other is not mechanism]
    assert untiled(family, mechanism, direction).error(others) < 2


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", ["qwen", "wan21", "wan22"])
def test_one_causal_convolution_alone_looks_back(family: str, direction: Direction) -> None:
    done = untiled(family, Mechanism.CAUSAL_CACHE, direction)
    coder = done.probe.get_submodule(f"{direction}r")
    causal = [module for module in coder.modules() if hasattr(module, "_padding")]
    (looking,) = (module for module in causal if module.weight[:, :, :-1].any())
    others = [module for module in causal if module is not looking]
    assert done.forgetting([looking]) > 100
    assert done.forgetting(others) < 2


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("mechanism", [Mechanism.STUB, Mechanism.HALO, Mechanism.ATTENTION])
def test_merging_the_statistics_of_tiles_stays_within_the_noise(
    mechanism: Mechanism, direction: Direction
) -> None:
    """Merging means in float32 is sound, so the probes' constants must not make it look wrong."""
    done = untiled("sd", mechanism, direction)
    norms = [m for m in done.probe.modules() if isinstance(m, nn.GroupNorm)]
    for norm in norms:
        norm.forward = merging(norm)
    try:
        assert rms(run(done.probe, direction, done.x) - done.truth) < 2 * done.floor
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("mechanism", [Mechanism.STUB, Mechanism.ATTENTION])
def test_statistics_guessed_from_a_small_copy_stay_within_the_noise(
    mechanism: Mechanism, direction: Direction
) -> None:
    """This holds also for an input with outliers, which attention picks."""
    case = Case(
        "sd", Scale.PROBE, Layout.LDM, direction, Mode.FAST, 10, 40, 16, mechanism=mechanism
    )
    x = make_input(case)
    probe = probes.build("sd", mechanism)
    seen, exact = (view(vae, "ldm", FAMILIES["sd"]) for vae in (probe, truth(probe)))
    net, decoding = getattr(seen, f"{direction}r"), direction is Direction.DECODE
    with torch.no_grad():
        true, untiled = exact.run(direction, x.double()), seen.run(direction, x)
        net.original_forward = net.forward
        net.forward = VAEHook(net, case.tile_size, decoding, fast_decoder=True, fast_encoder=True)
        guessed = seen.run(direction, x)
    assert not torch.equal(guessed, untiled)
    assert rms(guessed - true) < 1.5 * rms(untiled - true)


@pytest.mark.parametrize("fault", [m for m in Mechanism if m is not Mechanism.STUB])
def test_fault_changes_an_ordinary_mock(fault: Mechanism) -> None:
    """No fault of these tests is harmless by mistake."""
    family = FAMILIES["sd" if fault is Mechanism.GROUP_NORM else "qwen"]
    direction = Direction.ENCODE if fault is Mechanism.DOWNSAMPLE else Direction.DECODE
    mock = build(family.name, "mock")
    x = sample(family, direction, frames=3)
    with torch.no_grad():
        before = run(mock, direction, x)
        modules = break_(mock, fault)
        assert modules
        assert rms(run(mock, direction, x) - before) > 1e-3


@pytest.mark.parametrize(
    ("direction", "padding"), [("decode", FAMILIES["sd"].published_halo), ("encode", 4)]
)
def test_halo_probe_reaches_beyond_the_padding_of_published_hooks(
    direction: str, padding: int
) -> None:
    """A padding of 11 latent pixels (32 image pixels to encode) is too small, and this shows."""
    done = untiled("sd", Mechanism.HALO, Direction(direction))
    inner, outer = (1, 8) if direction == "decode" else (8, 1)
    x = sample(FAMILIES["sd"], done.direction, 1, (8, 32))
    whole = run(done.probe, done.direction, x)[..., : 16 * outer]
    tile = run(done.probe, done.direction, x[..., : (16 + padding) * inner])[..., : 16 * outer]
    assert rms(tile - whole) > 30 * done.floor


@pytest.mark.parametrize("family", ["sd", "sd3", "flux", "flux2", "sdxl", "wan21"])
def test_every_family_has_its_probes(family: str) -> None:
    for mechanism in (Mechanism.STUB, Mechanism.ATTENTION):
        probe = probes.build(family, mechanism)
        assert type(probe).__name__ == FAMILIES[family].model_class


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = probes.build("qwen", Mechanism.HALO).state_dict()
    torch.manual_seed(2)
    second = probes.build("qwen", Mechanism.HALO).state_dict()
    third = probes.build("qwen", Mechanism.HALO, seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["decoder.conv_in.weight"], third["decoder.conv_in.weight"])


def test_group_norm_that_cannot_be_anchored_is_refused() -> None:
    with pytest.raises(ValueError, match="probe_config"):
        probes.isolate(build("sd", "mock"), FAMILIES["sd"], Mechanism.STUB)


@pytest.mark.parametrize("family", ["sd", "qwen", "wan22"])
@pytest.mark.parametrize("mechanism", [Mechanism.STUB, Mechanism.ATTENTION])
def test_probe_keeps_its_result_in_the_original_layout(family: str, mechanism: Mechanism) -> None:
    facts = FAMILIES[family]
    done = untiled(family, mechanism, Direction.DECODE)
    seen = view(done.probe, facts.coder_layout, facts)
    with torch.no_grad():
        assert rms(seen.run(Direction.DECODE, done.x) - done.truth) < 2 * done.floor


@pytest.mark.parametrize("axis", [-1, -2], ids=["wide", "high"])
@pytest.mark.parametrize(("direction", "reach"), [("decode", 14), ("encode", 11)])
def test_farthest_pixel_of_a_halo_shows_on_either_side(
    direction: str, reach: int, axis: int
) -> None:
    way, size = Direction(direction), (4, 36) if axis == -1 else (36, 4)
    done, middle = untiled("sd", Mechanism.HALO, way, size), 18
    given, made = (8, 1) if way is Direction.ENCODE else (1, 8)
    x = done.x.clone()
    x.narrow(axis, middle * given, given).zero_()
    moved = run(done.probe, way, x) - done.output
    for place in (middle - reach, middle + reach):
        assert rms(moved.narrow(axis, place * made, made)) > 100 * done.floor
    beyond = moved.narrow(axis, 0, (middle - reach - 2) * made)
    assert rms(beyond) < 2 * done.floor


# Untiled results, and faults ---------------------------------------------------------------------


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@torch.no_grad()
def run(vae: nn.Module, direction: Direction, x: Tensor) -> Tensor:
    if direction is Direction.DECODE:
        return vae.decode(x).sample
    return vae.encode(x).latent_dist.parameters


def sample(
    family: Family, direction: Direction, frames: int, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Tensor:
    """Noise that grows from left to right, so that no two tiles have the same statistics."""
    decode = direction is Direction.DECODE
    count = frames if decode else 1 + (frames - 1) * family.temporal_ratio
    scale = 1 if decode else family.ratio
    shape = (
        1,
        family.latent_channels if decode else family.image_channels,
        *((count,) if family.frame_axis else ()),
        size[0] * scale,
        size[1] * scale,
    )
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(7)) * 2 - 1
    return noise * torch.linspace(0.2, 1, shape[-1]) * (2.7 if decode else 1)


@cache
def untiled(
    family: str,
    mechanism: Mechanism,
    direction: Direction,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Run:
    probe = probes.build(family, mechanism)
    frames = 3 if mechanism is Mechanism.CAUSAL_CACHE else 1
    x = sample(FAMILIES[family], direction, frames, size)
    with torch.no_grad():
        output = run(probe, direction, x)
        return Run(probe, x, direction, output, run(truth(probe), direction, x.double()))


def break_(vae: nn.Module, fault: Mechanism) -> list[nn.Module]:
    """Put a fault on every operation of its kind; returns the modules that were changed."""
    broken = []
    for name, module in vae.named_modules():
        if kind(name, module) is fault:
            module.forward = in_pieces(module.forward)
            broken.append(module)
    if fault is Mechanism.CAUSAL_CACHE:
        broken += [forget(part) for part in vae.modules() if hasattr(part, "_padding")]
    return broken


def forget(convolution: nn.Module) -> nn.Module:
    convolution.forward = without_memory(convolution.forward)
    return convolution


def kind(name: str, module: nn.Module) -> Mechanism | None:
    leaf = name.rsplit(".", 1)[-1]
    if isinstance(module, nn.GroupNorm):
        return Mechanism.GROUP_NORM
    if type(module).__name__ in ("Attention", "QwenImageAttentionBlock", "WanAttentionBlock"):
        return Mechanism.ATTENTION
    if name.endswith(("upsamplers.0", "downsamplers.0")) and not hasattr(module, "resample"):
        return Mechanism.UPSAMPLE if "decoder" in name else Mechanism.DOWNSAMPLE
    if leaf == "resample":
        return Mechanism.UPSAMPLE if "decoder" in name else Mechanism.DOWNSAMPLE
    if leaf in ("conv_in", "conv_out", "conv1", "conv2"):
        return Mechanism.HALO
    return None


def quarters(x: Tensor) -> list[Tensor]:
    if x.ndim == 3:  # the norm before attention is given the plane as a sequence
        return [part.contiguous() for part in x.chunk(4, -1)]
    return [part.contiguous() for row in x.chunk(2, -2) for part in row.chunk(2, -1)]


def merging(norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
    """GroupNorm with statistics merged from those of four quarters, all in float32."""

    def forward(x: Tensor) -> Tensor:
        groups = [part.reshape(x.shape[0], norm.num_groups, -1) for part in quarters(x)]
        mean = torch.stack([g.mean(-1) for g in groups]).mean(0)
        spread = torch.stack([(g - mean[..., None]).square().mean(-1) for g in groups]).mean(0)
        flat = x.reshape(x.shape[0], norm.num_groups, -1)
        flat = (flat - mean[..., None]) * torch.rsqrt(spread + norm.eps)[..., None]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return flat.view_as(x) * norm.weight.view(shape) + norm.bias.view(shape)

    return forward


def in_pieces(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute an operation on each quarter of its plane separately."""

    def broken(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        cached = [quarters(a) if isinstance(a, Tensor) else [a] * 4 for a in args]
        done = [
            forward(part, *rest, **kwargs) for part, *rest in zip(quarters(x), *cached, strict=True)
        ]
        if x.ndim == 3:
            return torch.cat(done, -1)
        return torch.cat([torch.cat(done[:2], -1), torch.cat(done[2:], -1)], -2)

    return broken


def without_memory(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A causal convolution that finds zeros where earlier frames should be."""

    def broken(x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        if cache_x is not None:
            return forward(x, torch.zeros_like(cache_x))
        if x.shape[2] > 1 and x.shape[2] % 2:  # the strided one gets its last frame in front
            x = torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], 2)
        return forward(x)

    return broken
