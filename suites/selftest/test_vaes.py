"""Seeded VAEs are reproducible and have every mechanism active; the truth is really float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.inputs import make_input
from vae_compat.fixtures.vaes import build, truth
from vae_compat.fixtures.vaes.seeding import LOUD, seed_weights

CACHED = [name for name, family in FAMILIES.items() if family.feature_cache]
GROUPED = [name for name, family in FAMILIES.items() if not family.local_norms]


def inputs(family: str, size: int = 16, **changes: Any) -> tuple[Tensor, Tensor]:
    """Latents to decode and an image to encode."""
    decode = Case(
        family, Scale.MOCK, Layout.DIFFUSERS, Direction.DECODE, Mode.EXACT, size, size, 16
    )
    decode = replace(decode, **changes)
    return make_input(decode), make_input(replace(decode, direction=Direction.ENCODE))


def run(vae: nn.Module, latents: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """The decoded image and the raw moments."""
    moments = []

    def keep(_module: nn.Module, _args: Any, result: Tensor) -> None:
        moments.append(result)

    last = vae.quant_conv if getattr(vae, "quant_conv", None) is not None else vae.encoder
    handle = last.register_forward_hook(keep)  # type: ignore[union-attr,operator]
    try:
        with torch.inference_mode():
            vae.encode(image)  # type: ignore[operator]
            decoded = vae.decode(latents).sample  # type: ignore[operator]
    finally:
        handle.remove()
    return decoded, moments[-1]


def rms(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()


# Building


@pytest.mark.parametrize("family", FAMILIES)
def test_a_built_vae_is_ready_to_run(family):
    vae = build(family, "mock")
    assert type(vae).__name__ == FAMILIES[family].model_class
    assert not any(module.training for module in vae.modules())
    assert not any(p.requires_grad for p in vae.parameters())
    tensors = [*vae.parameters(), *vae.buffers()]
    assert all(t.device.type == "cpu" for t in tensors)
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}
    assert all(t.isfinite().all() for t in tensors)


@pytest.mark.parametrize("family", ["sd", "wan22"])
def test_weights_depend_on_family_scale_and_seed_alone(family):
    before = torch.get_rng_state()
    first = build(family, "mock").state_dict()
    torch.rand(7)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        second = build(family, Scale.MOCK).state_dict()
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build(family, "mock", seed=1).state_dict()
    drawn = [name for name in first if first[name].is_floating_point()]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_building_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    build("sdxl", "mock")
    build("qwen", "mock")
    assert torch.equal(before, torch.get_rng_state())


def test_families_of_one_class_get_different_weights():
    sd, sdxl = build("sd", "mock"), build("sdxl", "mock")
    assert not torch.equal(sd.decoder.conv_in.weight, sdxl.decoder.conv_in.weight)


def test_an_unknown_family_is_wrong_use():
    with pytest.raises(UsageError, match=r"unknown family 'sdx': choose from sd, sdxl"):
        build("sdx", "mock")


def test_pretrained_weights_at_mock_scale_are_wrong_use():
    with pytest.raises(UsageError, match="ask for scale real"):
        build("sd", "mock", weights="somewhere")


# Liveliness


def attention_weights(vae: nn.Module, latents: Tensor, image: Tensor) -> list[Tensor]:
    """Softmax over keys of both attentions of a VAE, from the projections: ``B queries keys``."""
    seen: list[Tensor] = []
    queries: list[Tensor] = []

    def note(q: Tensor, k: Tensor) -> None:
        seen.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))

    def hook(name: str) -> Any:
        def separate(_module: nn.Module, _args: Any, result: Tensor) -> None:
            if name.endswith("to_q"):
                queries.append(result)
            else:
                note(queries.pop(), result)

        def joined(_module: nn.Module, _args: Any, result: Tensor) -> None:
            q, k, _ = result.flatten(2).transpose(1, 2).chunk(3, -1)
            note(q, k)

        return joined if name.endswith("to_qkv") else separate

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in vae.named_modules()
        if name.endswith(("to_q", "to_k", "to_qkv"))
    ]
    run(vae, latents, image)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_chooses_but_not_a_single_key(family):
    seen = attention_weights(build(family, "mock"), *inputs(family, 20))
    assert len(seen) == 2
    for weights in seen:
        keys = weights.shape[-1]
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean().item()
        assert math.log(keys / 20) < entropy < math.log(keys) - 0.4
        strongest = weights.max(-1).values.mean().item()
        assert 8 / keys < strongest < 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_contributes_to_the_residual_stream(family):
    vae = build(family, "mock")
    shares = []

    def share(_module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        shares.append(rms(result - args[0]) / rms(args[0]))

    for name, module in vae.named_modules():
        if name.endswith("attentions.0"):
            module.register_forward_hook(share)
    run(vae, *inputs(family, 12))
    assert len(shares) == 2
    assert all(0.2 < share < 2 for share in shares)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_have_contrast_and_moments_vary(family):
    decoded, moments = run(build(family, "mock"), *inputs(family, 20))
    for channel in decoded.transpose(0, 1).flatten(1):
        assert 0.15 < channel.std() < 0.8
    assert (decoded.abs() >= 1).float().mean() < 0.1
    mean, log_variance = moments.chunk(2, 1)
    assert 0.4 < mean.std() < 2
    assert 0.4 < log_variance.std() < 2
    assert log_variance.abs().max() < 15


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_neither_die_nor_explode(family):
    vae = build(family, "mock")
    levels: dict[str, tuple[float, float]] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, result: Any) -> None:
            if isinstance(result, Tensor):
                levels[name] = (result.std().item(), result.abs().max().item())

        return hook

    for name, module in vae.named_modules():
        if not list(module.children()):
            module.register_forward_hook(note(name))
    run(vae, *inputs(family, 12))
    assert len(levels) > 50
    # float16 ends at 65504, and its small numbers lose precision below 1e-4.
    most = 200 if FAMILIES[family].local_norms else 200 * LOUD
    assert all(std > 0.05 and highest < most for std, highest in levels.values())


@pytest.mark.parametrize("family", ["sd", "flux2"])
def test_what_group_norm_reads_is_so_loud_that_float16_cannot_hold_its_sum_of_squares(family):
    loud, plain = build(family, "mock"), build(family, "mock")
    seed_weights(plain, f"{family}-mock-8")
    sums: list[float] = []

    def note(norm: nn.GroupNorm, args: tuple[Tensor, ...]) -> None:
        groups = args[0].unflatten(1, (norm.num_groups, -1)).flatten(2)
        sums.append(groups.square().sum(2).min().item())

    given = inputs(family, 12)
    untouched = run(plain, *given)
    for module in loud.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(note)
    # Only the norms' epsilon is smaller beside what they read.
    for ours, theirs in zip(run(loud, *given), untouched, strict=True):
        assert rms(ours - theirs) < 1e-4 * rms(theirs)
    assert sum(total > 65504 for total in sums) > len(sums) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_non_trivial(family):
    for name, tensor in build(family, "mock").named_parameters():
        assert tensor.std() > 0.01, name
        assert (tensor == 0).float().mean() < 0.01, name
        assert (tensor == 1).float().mean() < 0.01, name
        if tensor.dim() == 5 and tensor.shape[2] == 3:
            taps = tensor.square().mean((0, 1, 3, 4)).sqrt()
            assert taps.min() > 0.2 * taps.max(), name


@pytest.mark.parametrize("family", GROUPED)
def test_group_norm_statistics_of_a_tile_differ_from_those_of_the_plane(family):
    vae = build(family, "mock")
    worst: list[float] = []

    def compare(_norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        (plane,) = args
        if plane.dim() != 4:
            return
        tile = plane[..., : plane.shape[-2] // 2, : plane.shape[-1] // 2]
        spreads = [side.unflatten(1, (32, -1)).flatten(2).std(2) for side in (tile, plane)]
        worst.append((spreads[0] / spreads[1]).log().abs().max().item())

    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(compare)
    run(vae, *inputs(family, 20))
    assert len(worst) > 20
    assert min(worst) > 0.03
    assert sum(worst) / len(worst) > 0.1


@pytest.mark.parametrize("family", CACHED)
def test_earlier_frames_matter_to_later_ones(family):
    vae = build(family, "mock")
    latents, image = inputs(family, 8, frames=2)
    decoded, moments = run(vae, latents, image)
    changed_latents, changed_image = latents.clone(), image.clone()
    changed_latents[:, :, 0].mul_(-1)
    changed_image[:, :, 0].mul_(-1)
    redecoded, remoments = run(vae, changed_latents, changed_image)
    assert rms(redecoded[:, :, 1:] - decoded[:, :, 1:]) > 0.02 * rms(decoded)
    assert rms(remoments[:, :, 1:] - moments[:, :, 1:]) > 0.02 * rms(moments)


def test_a_real_net_is_as_lively_as_its_mock():
    vae = build("sd", "real")
    assert sum(p.numel() for p in vae.parameters()) > 80_000_000
    latents, image = inputs("sd", 8)
    decoded, moments = run(vae, latents, image)
    assert 0.25 < decoded.std() < 0.8
    assert 0.4 < moments.std() < 2
    for weights in attention_weights(vae, latents, image):
        keys = weights.shape[-1]
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean().item()
        assert math.log(keys / 20) < entropy < math.log(keys) - 0.4


# Truth


class _Dtypes(TorchDispatchMode):
    """Collects the dtypes of all floating-point tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[torch.dtype, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.seen.setdefault(leaf.dtype, str(func))
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_truth_computes_in_float64_throughout(family):
    twin = truth(build(family, "mock"))
    frames = 2 if FAMILIES[family].frame_axis else 1
    latents, image = (x.double() for x in inputs(family, 4, frames=frames))
    with _Dtypes() as dtypes:
        run(twin, latents, image)
    assert set(dtypes.seen) == {torch.float64}, dtypes.seen


@pytest.mark.parametrize("family", CACHED)
def test_truth_upsamples_without_rounding(family):
    vae = build(family, "mock")
    found = [m for m in truth(vae).modules() if isinstance(m, nn.Upsample)]
    assert len(found) == 3
    x = 1 + torch.rand(1, 2, 3, 5, generator=torch.Generator().manual_seed(0)).double() * 2**-30
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    for upsample in found:
        assert torch.equal(upsample(x), doubled)
    rounding = next(m for m in vae.modules() if isinstance(m, nn.Upsample))
    assert not torch.equal(rounding(x), doubled)  # what the truth must not do


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_away_from_truth_by_rounding_alone(family):
    vae = build(family, "mock")
    latents, image = inputs(family, 8)
    decoded, moments = run(vae, latents, image)
    true_decoded, true_moments = run(truth(vae), latents.double(), image.double())
    for got, should in ((decoded, true_decoded), (moments, true_moments)):
        assert 1e-8 < rms(got - should) / rms(should) < 1e-5


@pytest.mark.parametrize("family", ["flux2", "qwen"])
def test_truth_leaves_the_vae_alone_and_shares_no_memory(family):
    vae = build(family, "mock")
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    kinds = [type(module) for module in vae.modules()]
    twin = truth(vae)
    tensors = [*twin.parameters(), *twin.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}
    assert not any(t.requires_grad for t in tensors)
    assert not any(module.training for module in twin.modules())
    for tensor in tensors:
        tensor.zero_()
    assert all(torch.equal(vae.state_dict()[name], before[name]) for name in before)
    assert [type(module) for module in vae.modules()] == kinds
