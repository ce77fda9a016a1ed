"""An own version of ``comfy.sd.VAE``, by what it is documented to do: what nodes call a VAE.

Pictures are ``B H W C`` from 0 to 1 (clips ``B T H W C``), and leave the device; latents are
``B Z H W``, of video VAEs ``B Z T H W``. ``decode`` and ``encode`` run as many items at once as an
estimate says that memory holds, and fall back to tiles where it runs out (Comfy-Org/ComfyUI,
comfy/sd.py). Two things differ: it loads no files, but wraps a VAE of layout ``ldm`` or ``wan``
that it is given, and as these give moments, so does ``encode``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vae_compat.subject.hosts.comfyui_tiling import Amount, tiled_scale, tiled_scale_multidim

FRAMES = 4
"""Image frames to a latent frame of a video VAE, after the first."""
_IMAGE_BYTES = (2178, 1767)
_VIDEO_BYTES = (7000, 6000)
"""Values that a pixel of the image is estimated to take, to decode and to encode."""


class VAE:
    """A VAE as nodes have it; see `wrapper` for what the host says of it."""

    device: torch.device
    vae_dtype: torch.dtype
    management: Mapping[str, Any]
    """Names of ``comfy.model_management``."""

    def __init__(self, sd: object = None, *_files: object, first_stage_model: Any = None) -> None:
        """Wrap ``first_stage_model``. Raises ``NotImplementedError`` for the weights of a file."""
        if first_stage_model is None or sd is not None:
            raise NotImplementedError(
                "the stand-in for comfy.sd.VAE loads no weights: give it a VAE of the case, "
                "VAE(first_stage_model=vae)"
            )
        self.first_stage_model = first_stage_model
        if not _casts(first_stage_model):  # then it is on the device that the host has for VAEs
            self.device = next(first_stage_model.parameters()).device
        self.latent_dim = 3 if hasattr(first_stage_model, "clear_cache") else 2
        self.latent_channels = _latent_channels(first_stage_model)
        self.output_device = torch.device("cpu")
        self.ratio = 8 * getattr(first_stage_model, "patch_size", 1)

    def process_input(self, image: Tensor) -> Tensor:
        """From the range of pictures to that of the VAE."""
        return image * 2.0 - 1.0

    def process_output(self, image: Tensor) -> Tensor:
        """The way back; what is out of range is clamped."""
        return ((image + 1.0) / 2.0).clamp(0.0, 1.0)

    def memory_used_decode(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Bytes that a latent of this shape is estimated to take; a batch counts as one item."""
        return self._estimated(0, shape, dtype) * self.ratio**2

    def memory_used_encode(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """The same for a picture ``B C [T] H W``."""
        return self._estimated(1, shape, dtype)

    def spacial_compression_decode(self) -> int:
        """Image pixels to a latent pixel, along one side."""
        return self.ratio

    def spacial_compression_encode(self) -> int:
        """The same."""
        return self.ratio

    def temporal_compression_decode(self) -> int | None:
        """Image frames to a latent frame; ``None`` for an image VAE."""
        return FRAMES if self.latent_dim == 3 else None

    # The whole VAE, or tiles where memory runs out ------------------------------------------------

    def decode(self, samples: Tensor) -> Tensor:
        """Latents -> pictures."""
        estimate = self.memory_used_decode(samples.shape, self.vae_dtype)
        made = self._in_batches(self._decoded, samples, estimate)
        if made is None:
            side = 256 // self.ratio
            overlap = (1, side // 4, side // 4)
            made = (
                self.decode_tiled_3d(samples, tile_x=side, tile_y=side, overlap=overlap)
                if samples.ndim == 5
                else self.decode_tiled_(samples)
            )
        return made.movedim(1, -1)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Pictures -> latents; what is no multiple of a latent pixel is cropped."""
        pixels = self._planes(pixel_samples)
        estimate = self.memory_used_encode(pixels.shape, self.vae_dtype)
        made = self._in_batches(self._encoded, pixels, estimate)
        if made is None:
            made = (
                self.encode_tiled_3d(pixels, overlap=(1, 64, 64))
                if pixels.ndim == 5
                else self.encode_tiled_(pixels)
            )
        return made

    def _in_batches(
        self, run: Callable[[Tensor], Tensor], x: Tensor, estimate: int
    ) -> Tensor | None:
        free = self.management["get_free_memory"](self.device)
        try:
            items = max(1, int(free / max(1, estimate)))
            made = [run(part) for part in torch.split(x, items)]
        except self.management["OOM_EXCEPTION"]:
            made = []  # tiles run after the exception has let go of the first attempt
        if made:
            return torch.cat(made)
        logging.warning("out of memory, so the VAE runs in tiles")
        return None

    # Tiles ----------------------------------------------------------------------------------------

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """Latents -> pictures, in tiles of latent pixels and frames."""
        if samples.ndim == 4:
            given = {"tile_x": tile_x, "tile_y": tile_y, "overlap": overlap}
            return self.decode_tiled_(samples, **_told(given)).movedim(1, -1)
        sizes = {"tile_x": tile_x, "tile_y": tile_y, "tile_t": tile_t and max(2, tile_t)}
        steps = {"overlap": _in_three(overlap, overlap_t)}
        return self.decode_tiled_3d(samples, **_told(sizes | steps)).movedim(1, -1)

    def encode_tiled(
        self,
        pixel_samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """Pictures -> latents, in tiles of image pixels and frames."""
        pixels = self._planes(pixel_samples)
        given = {"tile_x": tile_x, "tile_y": tile_y, "overlap": overlap}
        if pixels.ndim == 4:
            return self.encode_tiled_(pixels, **_told(given))
        # A time tile is as long as a clip can be, and so is an overlap: steps are latent frames.
        time = None if tile_t is None else _image_frames(max(2, _latent_frames(tile_t)))
        shared = None if overlap_t is None else _image_frames(_latent_frames(max(1, overlap_t)))
        steps = {"tile_t": time, "overlap": _in_three(overlap, shared)}
        return self.encode_tiled_3d(pixels, **_told({**given, **steps}))

    def decode_tiled_(
        self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16
    ) -> Tensor:
        """The mean over three shapes of tiles: as asked for, low and wide, narrow and high."""
        return self._in_three_shapes(
            samples, self._raw_image, (tile_x, tile_y), overlap, self.ratio, 3
        )

    def encode_tiled_(
        self, pixels: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64
    ) -> Tensor:
        """The same from pictures ``B C H W``."""
        return self._in_three_shapes(
            pixels, self._encoded, (tile_x, tile_y), overlap, 1 / self.ratio, self._moments
        )

    def decode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 999,
        tile_x: int = 32,
        tile_y: int = 32,
        overlap: tuple[int, int, int] = (1, 8, 8),
    ) -> Tensor:
        """Clips, in tiles of one shape."""
        tile = (tile_t, tile_y, tile_x)
        made = self._in_one_shape(samples, self._raw_image, tile, overlap, _image_frames, 3)
        return self.process_output(made)

    def encode_tiled_3d(
        self,
        pixels: Tensor,
        tile_t: int = 9999,
        tile_x: int = 512,
        tile_y: int = 512,
        overlap: tuple[int, int, int] = (1, 64, 64),
    ) -> Tensor:
        """Clips ``B C T H W``, in tiles of one shape."""
        tile = (tile_t, tile_y, tile_x)
        return self._in_one_shape(
            pixels, self._encoded, tile, overlap, _latent_frames, self._moments, downscale=True
        )

    def _in_one_shape(
        self,
        x: Tensor,
        run: Callable[[Tensor], Tensor],
        tile: tuple[int, int, int],
        overlap: tuple[int, int, int],
        frames: Amount,
        channels: int,
        *,
        downscale: bool = False,
    ) -> Tensor:
        amounts: list[Amount] = [frames, self.ratio, self.ratio]
        return tiled_scale_multidim(
            x,
            run,
            tile,
            overlap,
            amounts,
            out_channels=channels,
            downscale=downscale,
            index_formulas=(FRAMES, self.ratio, self.ratio),
            output_device=self.output_device,
        )

    def _in_three_shapes(
        self,
        x: Tensor,
        run: Callable[[Tensor], Tensor],
        sides: tuple[int, int],
        overlap: int,
        amount: float,
        channels: int,
    ) -> Tensor:
        wide, high = sides
        shapes = ((wide // 2, high * 2), (wide * 2, high // 2), (wide, high))
        made = [
            tiled_scale(x, run, *shape, overlap, amount, channels, self.output_device)
            for shape in shapes
        ]
        mean = sum(made[1:], made[0]) / len(made)
        return self.process_output(mean) if run == self._raw_image else mean

    # One call of the model ------------------------------------------------------------------------

    @property
    def _moments(self) -> int:
        return 2 * self.latent_channels

    def _raw_image(self, samples: Tensor) -> Tensor:
        return self._given(self.first_stage_model.decode, samples)

    def _decoded(self, samples: Tensor) -> Tensor:
        return self.process_output(self._raw_image(samples))

    def _encoded(self, pixels: Tensor) -> Tensor:
        return self._given(self.first_stage_model.encode, self.process_input(pixels))

    def _given(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return run(x.to(self.device, self.vae_dtype)).to(self.output_device).float()

    def _planes(self, pixels: Tensor) -> Tensor:
        """``B C H W`` or ``B C T H W``; frames of a picture list are a clip to a video VAE."""
        planes = pixels.movedim(-1, 1)
        if self.latent_dim == 3 and planes.ndim == 4:
            planes = planes.movedim(1, 0).unsqueeze(0)
        for axis in (-2, -1):
            size = planes.shape[axis]
            kept = size // self.ratio * self.ratio
            planes = planes.narrow(axis, (size - kept) // 2, kept)
        return planes

    def _estimated(self, which: int, shape: Sequence[int], dtype: torch.dtype) -> int:
        values = (_VIDEO_BYTES if len(shape) == 5 else _IMAGE_BYTES)[which]
        return values * shape[-2] * shape[-1] * dtype.itemsize


def wrapper(device: torch.device, dtype: torch.dtype, management: Mapping[str, Any]) -> type[VAE]:
    """The class as a host has it whose VAEs are on this device, in this dtype."""

    class Hosted(VAE):
        pass

    Hosted.device, Hosted.vae_dtype, Hosted.management = device, dtype, management
    return Hosted


def _casts(model: Any) -> bool:
    """Whether layers bring their weights from the host (comfyanonymous/ComfyUI, comfy/ops.py)."""
    return any(getattr(module, "comfy_cast_weights", False) for module in model.modules())


def _latent_channels(model: Any) -> int:
    first = model.conv2 if hasattr(model, "conv2") else model.decoder.conv_in
    return int(getattr(model, "post_quant_conv", first).in_channels)


def _image_frames(latent: Any) -> Any:
    return max(0, latent * FRAMES - 3)


def _latent_frames(image: Any) -> Any:
    return max(0, (image + 3) // FRAMES)


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _in_three(overlap: int | None, time: int | None) -> tuple[int, int, int] | None:
    if overlap is None:
        return None
    return (1 if time is None else max(1, time), overlap, overlap)
