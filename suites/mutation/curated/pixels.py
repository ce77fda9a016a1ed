"""What each pixel depends on: halos, resampling, statistics, attention."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vae_compat.suites.mutation.curated.declaring import Topic, returning
from vae_compat.suites.mutation.curated.places import (
    ATTENTION,
    DOWNSAMPLE,
    GROUP_NORM,
    HALO,
    PHOTOGRAPH,
    PICTURE,
    UNEVEN,
    UPSAMPLE,
    UPSAMPLE_ON_CPU,
)

PIXELS = Topic([])
mutation = PIXELS.mutation

# Halo: what a tile reads of its neighbours.


@mutation("Window.reach", HALO, "mechanism")
def halo_one_short_before(right: Any) -> Any:
    def change(found: Any, window: Any, *_: Any) -> Any:
        if window.kernel == 1 or window.up > 1 or found.zeros[0]:
            return found
        source, crop = found.source, found.crop
        return found._replace(
            source=source._replace(start=source.start + 1),
            crop=crop._replace(stop=crop.stop - 1),
            zeros=(1, found.zeros[1]),
        )

    return returning(change)(right)


@mutation("Window.reach", HALO, "mechanism")
def halo_one_short_after(right: Any) -> Any:
    def change(found: Any, window: Any, *_: Any) -> Any:
        if window.kernel == 1 or window.up > 1 or found.zeros[1]:
            return found
        source, crop = found.source, found.crop
        return found._replace(
            source=source._replace(stop=source.stop - 1),
            crop=crop._replace(stop=crop.stop - 1),
            zeros=(found.zeros[0], 1),
        )

    return returning(change)(right)


@mutation("convolve_2d", HALO, "mechanism")
def padding_on_the_wrong_side(right: Any) -> Any:
    def turned(reach: Any) -> Any:
        return reach._replace(zeros=reach.zeros[::-1])

    return lambda step, box, rows, cols, *rest: right(step, box, turned(rows), turned(cols), *rest)


@mutation("BandPlane.read", HALO, "mechanism")
def rows_read_one_off(right: Any) -> Any:
    def wrong(plane: Any, rows: Any, *rest: Any) -> Any:
        moved = rows.start > 0
        return right(plane, type(rows)(rows.start - moved, rows.stop - moved), *rest)

    return wrong


# Resampling.


@mutation("Window.reach", UPSAMPLE, "mechanism")
def upsampling_misaligned(right: Any) -> Any:
    def change(found: Any, window: Any, *_: Any) -> Any:
        crop = found.crop
        return found._replace(crop=type(crop)(0, crop.size)) if window.up > 1 else found

    return returning(change)(right)


@mutation("upsampled", UPSAMPLE, "mechanism")
def upsampling_linear(right: Any) -> Any:
    del right
    return lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear")


@mutation("folding.folded", UPSAMPLE_ON_CPU, "mechanism")
def phases_of_rows_and_columns_exchanged(right: Any) -> Any:
    return returning(lambda weights, _: weights.transpose(0, 1).transpose(4, 5))(right)


@mutation("folding.folded", UPSAMPLE_ON_CPU, "mechanism")
def sums_of_weights_rounded_to_half(right: Any) -> Any:
    return returning(lambda weights, _: weights.bfloat16().float())(right)


@mutation("phases", UPSAMPLE_ON_CPU, "mechanism")
def even_and_odd_outputs_exchanged(right: Any) -> Any:
    def change(found: Any, *_: Any) -> Any:
        (even, even_out), (odd, odd_out) = found
        return (even, odd_out), (odd, even_out)

    return returning(change)(right)


@mutation("convolve_phases", UPSAMPLE_ON_CPU, "mechanism")
def phases_without_bias(right: Any) -> Any:
    return lambda x, weights, bias, *rest: right(x, weights, None, *rest)


@mutation("ldm_level", DOWNSAMPLE, "mechanism", calls="conv")
def downsampling_padded_before(right: Any) -> Any:
    def wrong(*args: Any, pad: Any = None, **kwargs: Any) -> Any:
        return right(*args, pad=pad and pad[::-1], **kwargs)

    return wrong


# Statistics of GroupNorm.


@mutation("merged", UNEVEN, "parity")
def means_averaged_without_weights(right: Any) -> Any:
    return lambda counts, both: right([1] * len(counts), both)


@mutation("merged", GROUP_NORM, "mechanism")
def variance_without_the_spread_of_the_means(right: Any) -> Any:
    del right
    return lambda counts, both: tuple(both.mean((1, 4)))


@mutation("merged", PICTURE, "parity")
def variance_of_a_sample(right: Any) -> Any:
    def change(found: Any, counts: Any, both: Tensor) -> Any:
        count = sum(counts) * both.shape[4]
        return found[0], found[1] * count / (count - 1)

    return returning(change)(right)


@mutation("apply_moments", PHOTOGRAPH, "parity", calls="native_batch_norm")
def default_epsilon(right: Any) -> Any:
    return lambda *args: right(*args[:-1], 1e-5)


@mutation("Moments.add", GROUP_NORM, "mechanism")
def statistics_of_the_first_tile(right: Any) -> Any:
    return lambda moments, tile: None if moments.count else right(moments, tile)


@mutation("BandPlane.add", PICTURE, "parity", calls="add")
def statistics_of_a_sum_from_its_first_row(right: Any) -> Any:
    return lambda place: right(place[..., :1, :])


@mutation("spread", GROUP_NORM, "mechanism")
def statistics_of_other_groups(right: Any) -> Any:
    return returning(lambda found, values, *_: found.roll(values.shape[1], -1))(right)


@mutation("VAEHook.estimates", PICTURE, "parity")
def estimate_used_in_exact(right: Any) -> Any:
    def wrong(hook: Any, program: Any) -> Any:
        hook.fast = True
        return right(hook, program)

    return wrong


# Attention.


@mutation("attention.attend", ATTENTION, "mechanism", calls="all")
def attention_to_the_upper_half(right: Any) -> Any:
    def wrong() -> Tensor:
        tokens: Tensor = right()
        return tokens[:, :, : tokens.shape[2] // 2]

    return wrong


@mutation("Tokens.write", ATTENTION, "mechanism")
def tokens_of_another_band(right: Any) -> Any:
    def wrong(tokens: Any, part: Tensor, rows: Any, height: int, heads: int) -> None:
        start = height - rows.stop
        right(tokens, part, type(rows)(start, start + rows.size), height, heads)

    return wrong


@mutation("attention.attend", ATTENTION, "mechanism", calls="normalised")
def attention_without_its_norm(right: Any) -> Any:
    del right
    return lambda module, x, *_: x


@mutation("attention.attend", ATTENTION, "mechanism", calls="scaled_dot_product_attention")
def attention_scaled_twice(right: Any) -> Any:
    return lambda query, key, value: right(query / query.shape[-1] ** 0.5, key, value)


@mutation("activated", HALO, "mechanism")
def activation_left_out(right: Any) -> Any:
    del right
    return lambda module, x: x
