"""The hook that ships here with all that is offloaded on the host, where the tile sets the peak."""

from torch import nn

from vae_compat.tiled_vae import VAEHook


def hook(net: nn.Module, tile_size: int, is_decoder: bool) -> VAEHook:
    """Storing activations after each convolution, for every coder."""
    return VAEHook(net, tile_size, is_decoder, residency="host", method="rest")


def offloading(net: nn.Module, tile_size: int, is_decoder: bool) -> VAEHook:
    """The same with the method that it chooses. The arguments are the published constructor's."""
    return VAEHook(net, tile_size, is_decoder, residency="host")
