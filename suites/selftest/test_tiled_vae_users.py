"""The reference hook in users' hands: what they do to a VAE inside of the context."""

import copy
import logging
import threading

import pytest
import torch
from torch import Tensor, nn

from vae_compat.fixtures.vaes import build
from vae_compat.subject.hosts import host_modules
from vae_compat.suites.selftest.coders import latent, shared
from vae_compat.tiled_vae import TilingError, comfyui, tiled

pytestmark = pytest.mark.slow


def same(got: Tensor, plain: Tensor) -> bool:
    return torch.allclose(got, plain, rtol=1e-3, atol=1e-4)


def test_the_vaes_own_tiling_stays_off_inside_and_slices_are_tiled():
    vae, z = build("sd", "mock"), latent(batch=2)
    with torch.no_grad():
        plain = vae.decode(z).sample
        vae.enable_slicing()
        vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 32
        at: list[tuple[int, int]] = []
        with tiled(vae, 32, progress=lambda *now: at.append(now)) as hooks:
            vae.enable_tiling()
            assert same(vae.decode(z).sample, plain)
        assert not hooks[1].reasons
    assert at == [(number + 1, len(at)) for number in range(len(at))]
    assert vae.use_tiling
    assert vae.use_slicing


def test_compiled_coders_are_kept_out_of_the_graph():
    vae = build("sd", "mock")
    z = latent()
    with torch.no_grad():
        plain = vae.decode(z).sample
        vae.decoder = torch.compile(vae.decoder, backend="eager")
        torch._dynamo.reset()
        counts: list[int] = []
        with tiled(vae, 32, progress=lambda done, total: counts.append(total)) as hooks:
            assert same(vae.decode(z).sample, plain)
        assert not hooks[1].reasons
        frames = sum(torch._dynamo.utils.counters["frames"].values())
        with tiled(vae, 32) as hooks:
            assert same(vae.decode(z).sample, plain)
        assert not hooks[1].reasons
        assert counts
        assert frames < 20
        torch._dynamo.reset()


def test_a_copy_made_inside_is_not_tiled_and_its_own():
    vae = build("sd", "mock")
    with torch.no_grad(), tiled(vae, 32):
        other = copy.deepcopy(vae)
    with torch.no_grad():
        z = latent()
        plain = vae.decode(z).sample
        assert torch.equal(other.decode(z).sample, plain)
        other.decoder.conv_out.bias.add_(1)
        assert torch.allclose(other.decode(z).sample, plain + 1, atol=1e-5)
        assert not torch.allclose(vae.decode(z).sample, plain + 1, atol=1e-5)
        with tiled(other, 32) as hooks:
            assert torch.allclose(other.decode(z).sample, plain + 1, atol=1e-4)
        assert not hooks[1].reasons


def replicated(vae: nn.Module) -> nn.Module:
    """What ``DataParallel`` makes for another device: weights are no parameters there."""
    replicas = {each: each._replicate_for_data_parallel() for each in vae.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            setattr(replica, name, replicas.get(child))
        for name, weight in module._parameters.items():
            setattr(replica, name, None if weight is None else weight.detach() * 1.5)
    return replicas[vae]


@pytest.mark.parametrize("wrapped", ["the VAE", "its decoder"])
def test_replicas_for_other_devices_are_tiled_with_their_own_weights(wrapped):
    vae, z, tiles = build("sd", "mock"), latent(), list[int]()
    with torch.no_grad():
        plain = replicated(vae).decode(z).sample
        before = {each: [*each.__dict__] for each in vae.modules()}
        if wrapped == "its decoder":
            vae.decoder = nn.DataParallel(vae.decoder, device_ids=[])
            vae.decoder.device_ids = [0, 1]
        with tiled(vae, 32, progress=lambda done, _: tiles.append(done)):
            replica = replicated(vae)
            if wrapped == "its decoder":
                replica.decoder = replica.decoder.module
            got = replica.decode(z).sample
    assert len(tiles) > 4
    assert same(got, plain)
    assert not same(got, shared("sd").decode(z).sample)
    assert all(before.get(each) in (None, [*each.__dict__]) for each in vae.modules())


def test_a_decoder_put_in_inside_is_tiled_too():
    vae, z = build("sd", "mock"), latent()
    tiles: list[int] = []
    with torch.no_grad(), tiled(vae, 32, progress=lambda done, total: tiles.append(done)):
        old, vae.decoder = vae.decoder, copy.deepcopy(vae.decoder)
        vae.decoder.conv_out.bias.add_(1)
        got = vae.decode(z).sample
    assert tiles
    with torch.no_grad():
        assert same(got, vae.decode(z).sample)
    for net in (old, vae.decoder):
        assert net.forward == type(net).forward.__get__(net)


def test_threads_with_a_context_each_do_not_mix():
    vae, z = shared("sd"), latent()
    sides = {32: 4, 16: 2}
    inside = threading.Barrier(2)
    results: dict[int, tuple[Tensor, int]] = {}

    def work(tile: int) -> None:
        totals: list[int] = []
        with torch.no_grad(), tiled(vae, tile, progress=lambda done, total: totals.append(total)):
            inside.wait(60)
            got = vae.decode(z).sample
            inside.wait(60)
        results[tile] = got, totals[-1]

    threads = [threading.Thread(target=work, args=(tile,)) for tile in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    with torch.no_grad():
        plain = vae.decode(z).sample
    assert all(same(results[tile][0], plain) for tile in sides)
    assert results[16][1] > results[32][1]
    assert not {"decode", "encode"} & set(vae.__dict__)
    assert not {"forward", "original_forward"} & set(vae.decoder.__dict__)


def test_a_thread_without_a_context_takes_part_in_the_one_that_is_open():
    vae = shared("sd")
    tiles: list[int] = []
    with torch.no_grad(), tiled(vae, 32, progress=lambda done, total: tiles.append(done)):

        def work() -> None:
            with torch.no_grad():
                vae.decode(latent())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    assert tiles


def test_a_vae_without_a_known_decoder_is_said_to_be_untiled(caplog):
    class ConsistencyDecoderVAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = shared("sd").encoder
            self.decoder_unet = nn.Conv2d(1, 1, 1)

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x)

        def decode(self, z: Tensor) -> Tensor:
            return z

    with tiled(ConsistencyDecoderVAE(), 32) as hooks:
        assert len(hooks) == 1
    assert "ConsistencyDecoderVAE.decode runs untiled: there is no decoder" in caplog.text


@pytest.mark.parametrize(("family", "batch", "frames"), [("sd", 3, 1), ("qwen", 1, 4)])
def test_progress_runs_over_the_whole_call(family, batch, frames):
    vae, at = shared(family), []
    z = latent(family, batch=batch, frames=frames)
    with torch.no_grad(), tiled(vae, 32, progress=lambda *now: at.append(now)):
        vae.decode(z)
    assert at == [(number + 1, len(at)) for number in range(len(at))]
    assert len(at) > 4 * max(batch, frames)


def test_what_cannot_be_told_is_refused():
    with (
        pytest.raises(TilingError, match="progress is 'loudly'"),
        tiled(shared("sd"), progress="loudly"),
    ):
        pass


def test_a_bar_is_shown_where_asked_for(capsys):
    with torch.no_grad(), tiled(shared("sd"), 32, progress=True):
        shared("sd").decode(latent())
    assert "100%" in capsys.readouterr().err


def test_nothing_is_said_where_all_is_well(caplog):
    with caplog.at_level(logging.WARNING), torch.no_grad(), tiled(shared("sd"), 32):
        shared("sd").decode(latent())
    assert not caplog.records


class ComfyVae:
    """A VAE as ComfyUI hands it to nodes: channels last, the model inside."""

    def __init__(self, vae: nn.Module) -> None:
        self.first_stage_model = vae

    def decode(self, samples: Tensor) -> Tensor:
        return self.first_stage_model.decode(samples).sample.movedim(1, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.first_stage_model.encode(pixels.movedim(-1, 1)).latent_dist.mean


def test_the_nodes_for_comfyui_decode_and_encode_as_untiled():
    vae, z = ComfyVae(shared("sd")), latent()
    with torch.no_grad():
        image = vae.decode(z)
        mean = vae.encode(image)
        with host_modules("comfyui", torch.device("cpu")):
            decode, encode = (node() for node in comfyui.NODE_CLASS_MAPPINGS.values())
            assert same(decode.run({"samples": z}, vae, 32, "")[0], image)
            assert same(decode.run({"samples": z}, vae, 0, "20 MiB")[0], image)
            assert same(encode.run(image, vae, 32, "")[0]["samples"], mean)
    assert set(decode.INPUT_TYPES()["required"]) == {"samples", "vae", "tile_size", "max_vram"}
