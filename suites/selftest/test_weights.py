"""Pretrained weights load in every form, and every wrong one is refused in one clear sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.vaes import build, load, parse_weights
from vae_compat.fixtures.vaes.building import empty, model_class
from vae_compat.fixtures.vaes.seeding import seed_weights

State = dict[str, Tensor]


def small(family: str, **config: Any) -> nn.Module:
    """A small net for checkpoints. It has two blocks a level, as the original Wan names require."""
    facts = FAMILIES[family]
    blocks = {"num_res_blocks": 2} if facts.coder_layout == "wan" else {}
    vae = empty(facts, {**facts.mock, **blocks, **config})
    seed_weights(vae, "checkpoint")
    return vae


def ldm_names(state: State) -> State:
    """Rename from diffusers' names to those of latent-diffusion."""
    attention = (("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_", ""))
    named = {}
    for name, tensor in state.items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d)\.(resnets|upsamplers)\.",
            lambda m: f"up.{3 - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}.",
            name,
        )
        name = name.replace("upsample.0.conv", "upsample.conv")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for new, old in attention:
                name = name.replace(new, old)
            tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
        named[name] = tensor
    return named


def bfl_names(state: State) -> State:
    """Rename as FLUX.2 is published: latent-diffusion names, quant convolutions in the coders."""
    return {
        re.sub(r"^quant_conv", "encoder.quant_conv", re.sub(r"^post_", "decoder.post_", name)): t
        for name, t in ldm_names(state).items()
    }


def wan_names(state: State) -> State:
    """Rename from diffusers' names to those of the original Wan 2.1."""
    residual = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3"}
    residual |= {"conv2": "residual.6", "conv_shortcut": "shortcut"}
    named = {}
    for name, tensor in state.items():
        name = re.sub(
            r"\.(norm1|conv1|norm2|conv2|conv_shortcut)\.", lambda m: f".{residual[m[1]]}.", name
        )
        name = re.sub(r"^quant_conv", "conv1", re.sub(r"^post_quant_conv", "conv2", name))
        name = name.replace("conv_in", "conv1").replace("norm_out", "head.0")
        name = name.replace("conv_out", "head.2").replace("down_blocks", "downsamples")
        name = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)",
            lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}",
            name,
        )
        name = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0",
            lambda m: f"upsamples.{4 * int(m[1]) + 3}",
            name,
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
        named[name.replace("mid_block.attentions.0", "middle.1")] = tensor
    return named


def write(path: Path, vae: nn.Module, rename: Callable[[State], State], prefix: str = "") -> Path:
    """Write a safetensors file, with the small net's configuration beside it."""
    state = {prefix + name: t.contiguous() for name, t in rename(vae.state_dict()).items()}
    save_file(state, path)
    vae.save_config(path.parent)  # type: ignore[operator]
    return path


def assert_same(loaded: nn.Module, source: nn.Module) -> None:
    expected = source.state_dict()
    got = loaded.state_dict()
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    assert not any(module.training for module in loaded.modules())
    assert not any(p.requires_grad or p.dtype is not torch.float32 for p in loaded.parameters())


def unchanged(state: State) -> State:
    return state


# What is taken


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_is_loaded(family, tmp_path):
    vae = small(family)
    vae.save_pretrained(tmp_path)
    assert_same(load(family, tmp_path), vae)


def test_a_pipeline_directory_with_a_vae_folder_is_loaded(tmp_path):
    vae = small("sdxl")
    vae.save_pretrained(tmp_path / "vae")
    assert_same(load("sdxl", str(tmp_path)), vae)


def test_build_takes_pretrained_weights_at_real_scale(tmp_path):
    vae = small("qwen")
    vae.save_pretrained(tmp_path)
    assert_same(build("qwen", "real", weights=tmp_path), vae)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_with_diffusers_names_is_loaded(family, tmp_path):
    vae = small(family)
    assert_same(load(family, write(tmp_path / "vae.safetensors", vae, unchanged)), vae)


@pytest.mark.parametrize(
    ("family", "rename", "prefix"),
    [
        ("sd", ldm_names, "first_stage_model."),
        ("sdxl", ldm_names, ""),
        ("sd3", ldm_names, "vae."),
        ("flux", ldm_names, ""),
        ("flux2", bfl_names, ""),
        ("qwen", wan_names, ""),
        ("wan21", wan_names, ""),
    ],
)
def test_a_single_file_with_the_original_names_is_loaded(family, rename, prefix, tmp_path):
    vae = small(family)
    path = write(tmp_path / "vae.safetensors", vae, rename, prefix)
    assert_same(load(family, path), vae)


def test_what_else_a_file_holds_is_left_alone(tmp_path):
    vae = small("sd")

    def with_more(state: State) -> State:
        return {**state, "model.diffusion_model.out.weight": torch.zeros(3)}

    assert_same(load("sd", write(tmp_path / "vae.safetensors", vae, with_more)), vae)


@pytest.mark.parametrize("family", ["sd", "wan21", "qwen"])
def test_half_precision_weights_are_widened(family, tmp_path):
    vae = small(family)
    half = {name: tensor.to(torch.bfloat16) for name, tensor in vae.state_dict().items()}
    path = write(tmp_path / "vae.safetensors", vae, lambda _: half)
    loaded = load(family, path).state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[name], half[name].float()) for name in half)


def test_loading_leaves_the_random_state_alone(tmp_path):
    vae = small("sd")
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    path = write(tmp_path / "vae.safetensors", vae, unchanged)
    before = torch.get_rng_state()
    load("sd", tmp_path / "pipeline")
    load("sd", path)
    assert torch.equal(before, torch.get_rng_state())


def test_a_hub_id_goes_to_from_pretrained_with_safetensors_only(monkeypatch, tmp_path):
    vae = small("flux")
    vae.save_pretrained(tmp_path)
    cls = model_class(FAMILIES["flux"])
    fetch_config, fetch = cls.load_config, cls.from_pretrained
    calls = []

    def load_config(name, *args, subfolder=None, **options):
        if name != "someone/flux":  # what `from_pretrained` itself asks for
            return fetch_config(name, *args, subfolder=subfolder, **options)
        if subfolder is None:
            raise OSError("no config.json at the top of a pipeline")
        return fetch_config(tmp_path)

    def from_pretrained(name, *, subfolder, **options):
        calls.append((name, subfolder, options["use_safetensors"]))
        return fetch(tmp_path, **options)

    monkeypatch.setattr(cls, "load_config", load_config)
    monkeypatch.setattr(cls, "from_pretrained", from_pretrained)
    assert_same(load("flux", "someone/flux"), vae)
    assert calls == [("someone/flux", "vae", True)]


# What is refused


def test_an_unknown_hub_id_is_wrong_use(monkeypatch):
    def offline(name, **_):
        raise OSError(f"{name} cannot be reached")

    monkeypatch.setattr(model_class(FAMILIES["sd"]), "load_config", offline)
    with pytest.raises(UsageError, match="from hub id nobody/nothing: check the name"):
        load("sd", "nobody/nothing")


@pytest.mark.parametrize("name", ["vae.ckpt", "vae.bin", "vae.pt", "vae.pth"])
def test_only_safetensors_is_read(name, tmp_path):
    path = tmp_path / name
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="convert the weights to safetensors"):
        load("sd", path)


def test_a_directory_without_safetensors_is_wrong_use(tmp_path):
    vae = small("sd")
    vae.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UsageError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        load("sd", tmp_path)


@pytest.mark.parametrize("source", ["gone.safetensors", "models/gone.safetensors", "/gone/vae"])
def test_a_missing_path_is_wrong_use(source):
    with pytest.raises(UsageError, match="do not exist: give a directory"):
        load("sd", source)


def test_a_directory_that_holds_no_vae_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"holds no VAE: it needs a config\.json"):
        load("sd", tmp_path)


def test_a_directory_of_another_class_is_wrong_use(tmp_path):
    small("qwen").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="holds a AutoencoderKLQwenImage, but wan21 is a"):
        load("wan21", tmp_path)


@pytest.mark.parametrize(
    ("saved", "asked", "key"),
    [
        ("flux", "sd", "latent_channels"),
        ("wan22", "wan21", "z_dim"),
        ("sd3", "sdxl", "latent_channels"),
    ],
)
def test_a_directory_of_another_architecture_is_wrong_use(saved, asked, key, tmp_path):
    small(saved).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=f"is not of family {asked}: its {key} is"):
        load(asked, tmp_path)


def test_quantizing_convolutions_must_be_as_published(tmp_path):
    small("sd", use_quant_conv=False).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="its use_quant_conv is False and should be True"):
        load("sd", tmp_path)


def test_a_damaged_configuration_is_wrong_use(tmp_path):
    small("sd").save_pretrained(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UsageError, match=r"config\.json"):
            load("sd", tmp_path)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"text": b"no tensors here", "empty": b"", "half": content[:-999]}[how])


@pytest.mark.parametrize(("family", "reason"), [("sd", "are missing"), ("qwen", "has shape")])
def test_a_small_file_without_its_configuration_is_wrong_use(family, reason, tmp_path):
    path = write(tmp_path / "vae.safetensors", small(family), unchanged)
    for beside in ({"_class_name": "UNet2DConditionModel"}, None):
        if beside is None:
            (tmp_path / "config.json").unlink()
        else:  # the configuration of something else is not taken for the file's own
            (tmp_path / "config.json").write_text(json.dumps(beside))
        with pytest.raises(UsageError, match=rf"{reason}.*put its config\.json beside"):
            load(family, path)


@pytest.mark.parametrize("how", ["text", "empty", "half"])
def test_a_damaged_file_is_wrong_use(how, tmp_path):
    path = write(tmp_path / "vae.safetensors", small("sd"), unchanged)
    damage(path, how)
    with pytest.raises(UsageError, match=r"cannot be read as safetensors \("):
        load("sd", path)


@pytest.mark.parametrize("how", ["text", "empty", "half"])
def test_a_damaged_file_in_a_directory_is_wrong_use(how, tmp_path):
    small("wan21").save_pretrained(tmp_path)
    damage(next(tmp_path.glob("*.safetensors")), how)
    with pytest.raises(UsageError, match=r"cannot be read as safetensors \("):
        load("wan21", tmp_path)


def without_one(state: State) -> State:
    return {name: t for name, t in state.items() if name != "decoder.conv_in.weight"}


@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_a_file_that_lacks_a_tensor_is_wrong_use(family, tmp_path):
    path = write(tmp_path / "vae.safetensors", small(family), without_one)
    with pytest.raises(UsageError, match="does not hold the"):
        load(family, path)


def test_a_directory_that_lacks_a_tensor_is_wrong_use(tmp_path):
    vae = small("sd")
    vae.save_pretrained(tmp_path)
    save_file(without_one(vae.state_dict()), next(tmp_path.glob("*.safetensors")))
    with pytest.raises(UsageError, match=r"1 tensors are missing, .* decoder\.conv_in\.weight"):
        load("sd", tmp_path)


@pytest.mark.parametrize(
    ("saved", "asked"), [("sd", "qwen"), ("wan21", "flux2"), ("wan22", "wan21"), ("qwen", "sd")]
)
def test_a_file_of_another_family_is_wrong_use(saved, asked, tmp_path):
    path = write(tmp_path / "vae.safetensors", small(saved), unchanged)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=f"(does not hold the .*of {asked}|does not fit {asked})"):
        load(asked, path)


def test_original_wan22_names_are_refused_clearly(tmp_path):
    path = write(tmp_path / "vae.safetensors", small("wan22"), wan_names)
    with pytest.raises(UsageError, match="of wan22"):
        load("wan22", path)


# The option


def test_an_option_is_split_at_its_first_equals_sign():
    assert parse_weights("sdxl=a/b=c.safetensors") == ("sdxl", "a/b=c.safetensors")
    assert parse_weights(" qwen = Qwen/Qwen-Image ") == ("qwen", "Qwen/Qwen-Image")


@pytest.mark.parametrize("option", ["sdxl", "sdxl=", "=path", "=", ""])
def test_an_option_of_another_form_is_wrong_use(option):
    with pytest.raises(UsageError, match="are not of the form FAMILY=PATH_OR_ID"):
        parse_weights(option)


def test_an_option_for_an_unknown_family_is_wrong_use():
    with pytest.raises(UsageError, match="unknown family 'sd15': choose from sd, "):
        parse_weights("sd15=path")
