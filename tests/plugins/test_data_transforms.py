"""Augmentations are pure, keyed for each example, and have the statistics that they promise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from framework.errors import ConfigError
from framework_data.affine import random_affine, warped
from framework_data.transforms import gaussian_noise, random_erase, random_flip, random_shift

HEIGHT, WIDTH = 9, 7
TRANSFORMS = {
    "shift": jax.jit(random_shift(2)),
    "flip": jax.jit(random_flip()),
    "erase": jax.jit(random_erase(3)),
    "noise": jax.jit(gaussian_noise(0.5)),
    "affine": jax.jit(random_affine()),
}


def coded(count):
    """Images [count, HEIGHT, WIDTH, 2] in which each pixel of the first channel tells its place; none is 0."""
    place = 1 + 100 * np.arange(HEIGHT)[:, None] + np.arange(WIDTH)
    images = np.stack([place, place + 1000], axis=-1)
    return {"inputs": jnp.asarray(np.tile(images, (count, 1, 1, 1)), jnp.float32), "targets": jnp.arange(count)}


def keys_of(batch, seed=0):
    """A key for each example, as the core hands them over."""
    return jax.random.split(jax.random.key(seed), len(jax.tree.leaves(batch["inputs"])[0]))


def near(found, expected, count):
    """Tell whether a share found in `count` trials is within 5 standard deviations of the expected one."""
    return abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_pure_keyed_and_only_inputs_change(transform):
    batch = {**coded(16), "weights": jnp.ones(16)}
    out = transform(keys_of(batch), batch)
    assert out.keys() == batch.keys()
    assert out["inputs"].shape == batch["inputs"].shape
    assert out["inputs"].dtype == batch["inputs"].dtype
    assert np.array_equal(out["targets"], batch["targets"])
    assert np.array_equal(out["weights"], batch["weights"])
    assert np.array_equal(transform(keys_of(batch), batch)["inputs"], out["inputs"])
    other = transform(keys_of(batch, 1), batch)["inputs"]
    assert not np.array_equal(other, out["inputs"])
    assert len({image.tobytes() for image in np.asarray(out["inputs"])}) > 1, "examples of one batch differ"


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_what_happens_to_an_example_does_not_depend_on_the_others(transform):
    batch = coded(8)
    changed = {**batch, "inputs": batch["inputs"].at[3].multiply(2)}
    before, after = (np.asarray(transform(keys_of(b), b)["inputs"]) for b in (batch, changed))
    assert np.array_equal(np.delete(before, 3, axis=0), np.delete(after, 3, axis=0))


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_shifts_are_uniform_and_repeat_the_border(pixels):
    count, side = 4000, 2 * pixels + 1
    batch = coded(count)
    out = np.asarray(jax.jit(random_shift(pixels))(keys_of(batch), batch)["inputs"])
    row, column = HEIGHT // 2, WIDTH // 2
    moved = out[:, row, column, 0] - 1
    down, right = (moved // 100 - row).astype(int), (moved % 100 - column).astype(int)
    image = np.asarray(batch["inputs"][0])
    rows = np.clip(np.arange(HEIGHT) + down[:, None], 0, HEIGHT - 1)
    columns = np.clip(np.arange(WIDTH) + right[:, None], 0, WIDTH - 1)
    assert np.array_equal(out, image[rows[:, :, None], columns[:, None, :]])
    shares = np.bincount((down + pixels) * side + right + pixels, minlength=side**2) / count
    assert len(shares) == side**2
    assert all(near(share, 1 / side**2, count) for share in shares)


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_flips_mirror_the_given_share(probability):
    count = 4000
    batch = coded(count)
    out = np.asarray(jax.jit(random_flip(probability))(keys_of(batch), batch)["inputs"])
    image = np.asarray(batch["inputs"][0])
    flipped = (out == image[:, ::-1]).all(axis=(1, 2, 3))
    assert np.array_equal(out[~flipped], np.broadcast_to(image, out[~flipped].shape))
    assert near(flipped.mean(), probability, count)


@pytest.mark.parametrize(("size", "probability"), [(1, 1.0), (3, 0.5), (7, 0.25), (3, 0.0)])
def test_erased_squares_lie_within_anywhere(size, probability):
    count = 4000
    out = np.asarray(jax.jit(random_erase(size, probability))(keys_of(coded(count)), coded(count))["inputs"])
    image = np.asarray(coded(1)["inputs"][0])
    gone = out == 0
    assert np.array_equal(out[~gone], np.broadcast_to(image, out.shape)[~gone])
    assert np.array_equal(gone[..., 0], gone[..., 1])
    gone = gone[..., 0]
    hit = gone.any(axis=(1, 2))
    assert near(hit.mean(), probability, count)
    tops, lefts = gone[hit].any(axis=2).argmax(axis=1), gone[hit].any(axis=1).argmax(axis=1)
    for mask, top, left in zip(gone[hit], tops, lefts, strict=True):
        assert mask[top : top + size, left : left + size].all()
        assert mask.sum() == size**2
    places = (HEIGHT - size + 1) * (WIDTH - size + 1)
    shares = np.unique(tops * WIDTH + lefts, return_counts=True)[1] / max(1, hit.sum())
    assert probability == 0 or (len(shares) == places and all(near(s, 1 / places, hit.sum()) for s in shares))


def test_noise_is_normal_and_independent():
    batch = {"inputs": jnp.full([2000, 4, 4, 1], 3.0)}
    noise = np.asarray(TRANSFORMS["noise"](keys_of(batch), batch)["inputs"], np.float64).reshape(2000, 16) - 3
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.5 - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs((np.abs(noise) < 0.5).mean() - 0.6827) < 0.015
    pixels, examples = np.corrcoef(noise.T), np.corrcoef(noise[:, :8].ravel(), noise[:, 8:].ravel())
    assert np.abs(pixels - np.eye(16)).max() < 5.5 / np.sqrt(2000)
    assert abs(examples[0, 1]) < 5 / np.sqrt(16_000)


@pytest.mark.parametrize(
    ("matrix", "shift"), [(np.eye(2), [0.0, 0.0]), ([[0.9, -0.3], [0.2, 1.1]], [0.7, -1.4]), (np.eye(2), [9.0, 0.5])]
)
def test_warped_images_are_scipys(matrix, shift):
    image = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 2))
    centre = np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])
    offset = centre + shift - np.asarray(matrix) @ centre
    wanted = [ndimage.affine_transform(image[..., c], matrix, offset, order=1, mode="nearest") for c in range(2)]
    arguments = (jnp.asarray(each, jnp.float32) for each in (image, matrix, shift))
    np.testing.assert_allclose(warped(*arguments), np.stack(wanted, axis=-1), atol=1e-5)


def test_affine_maps_leave_the_image_where_nothing_is_moved():
    batch = coded(3)
    out = random_affine(0.0, 0.0, 0.0, 0.0)(keys_of(batch), batch)
    np.testing.assert_allclose(out["inputs"], batch["inputs"], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_the_dtype_of_images_is_kept(transform, dtype):
    batch = {"inputs": jnp.ones([4, 8, 8, 1], dtype)}
    out = jax.eval_shape(transform, keys_of(batch), batch)
    assert out["inputs"] == jax.ShapeDtypeStruct((4, 8, 8, 1), dtype)


@pytest.mark.parametrize(
    ("factory", "options", "text"),
    [
        (random_shift, {"pixels": -1}, "pixels is -1"),
        (random_flip, {"probability": 1.5}, "probability is 1.5, expected a number from 0 to 1"),
        (random_flip, {"probability": float("nan")}, "probability is nan"),
        (random_erase, {"size": 0}, "size is 0"),
        (random_erase, {"probability": -0.1}, "probability is -0.1"),
        (gaussian_noise, {"scale": -1.0}, "scale is -1.0"),
        (random_affine, {"shear": -0.5}, "shear is -0.5"),
    ],
)
def test_options_out_of_range_are_refused(factory, options, text):
    with pytest.raises(ConfigError, match=f"{factory.__name__}: {text}"):
        factory(**options)


@pytest.mark.parametrize(
    ("transform", "inputs", "text"),
    [
        (random_erase(8), jnp.ones([2, 9, 7, 1]), "size is 8, expected at most that of the images, 9×7"),
        (random_flip(), jnp.ones([2, 5]), r"float32\[2, 5\], expected floating-point images \[B, H, W, C\]"),
        (random_shift(), jnp.ones([2, 5, 5, 1], jnp.int32), "int32"),
        (gaussian_noise(), {"left": jnp.ones([2, 5, 5, 1])}, "left"),
    ],
)
def test_inputs_that_are_no_fitting_images_are_refused(transform, inputs, text):
    with pytest.raises(ConfigError, match=text):
        transform(keys_of({"inputs": inputs}), {"inputs": inputs})
