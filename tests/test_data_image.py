"""Image transforms: what they do, and that a shard of a batch is treated as in the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels import data
from jaxmodels.data import image
from jaxmodels.errors import UserError

H, W = 9, 7
RANDOM = {
    "crop": image.random_crop(2),
    "flip": image.random_flip,
    "cutout": image.cutout(4),
    "compose": image.compose(image.random_crop(2), image.random_flip, image.cutout(3)),
}


def batch(B=64):
    # Every pixel differs from every other, and none is zero.
    pixels = jnp.arange(1, B * H * W * 3 + 1, dtype=jnp.float32).reshape(B, H, W, 3)
    return {"image": pixels, "label": jnp.arange(B)}


@pytest.mark.parametrize("name", RANDOM)
class TestRandom:
    def test_same_key_same_images_in_jit_too(self, name):
        transform, key = RANDOM[name], jax.random.key(0)
        made = transform(key, batch())
        assert (made["image"] == jax.jit(transform)(key, batch())["image"]).all()
        assert (made["image"] != transform(jax.random.key(1), batch())["image"]).any()
        assert made["image"].shape == (64, H, W, 3)
        assert (made["label"] == batch()["label"]).all()

    def test_an_example_does_not_depend_on_its_neighbours(self, name):
        key = jax.random.key(0)
        few, many = (RANDOM[name](key, batch(B))["image"] for B in (8, 64))
        assert (few == many[:8]).all()

    def test_sharding_changes_nothing(self, name):
        mesh = Mesh(np.array(jax.devices()), ("data",))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        spread = jax.device_put(batch(), sharding)
        key = jax.random.key(0)
        made = jax.jit(RANDOM[name], out_shardings=sharding)(key, spread)["image"]
        assert made.sharding == sharding
        assert (np.asarray(made) == np.asarray(RANDOM[name](key, batch())["image"])).all()


def test_random_crop_cuts_windows_of_the_padded_image():
    original = np.asarray(batch()["image"])
    made = np.asarray(RANDOM["crop"](jax.random.key(0), batch())["image"])
    padded = np.pad(original, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W), (1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # (B, 5, 5, H, W, C)
    equal = (windows == made[:, None, None]).all((3, 4, 5))
    assert (equal.sum((1, 2)) == 1).all()
    # 64 draws of 25 places: each row and column offset is met.
    assert equal.any((0, 2)).all()
    assert equal.any((0, 1)).all()


def test_random_flip_mirrors_about_half():
    original, made = batch()["image"], RANDOM["flip"](jax.random.key(0), batch())["image"]
    same = (made == original).all((1, 2, 3))
    flipped = (made == original[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ flipped).all()
    assert 16 < same.sum() < 48  # four standard deviations


def test_cutout_clears_a_square_cut_at_the_borders():
    made = np.asarray(RANDOM["cutout"](jax.random.key(0), batch())["image"])
    for hole in (made == 0).all(-1):
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)
        assert np.ptp(rows) == len(rows) - 1 <= 3
        assert np.ptp(columns) == len(columns) - 1 <= 3
        assert len(rows) == 4 or {0, H - 1} & set(rows)
        assert len(columns) == 4 or {0, W - 1} & set(columns)


def test_to_float_rescale_and_normalize():
    pixels = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    made = image.to_float({"image": pixels})["image"]
    np.testing.assert_allclose(made.ravel(), [0, 0.2, 1], rtol=1e-6)
    assert image.rescale(1)({"image": jnp.ones((1, 1, 1, 1), jnp.uint8)})["image"] == 1
    floats = {"image": jnp.full((1, 1, 1, 1), 3.0), "x": 1}
    assert image.to_float(floats) == floats
    made = image.normalize((0.0, 0.2, 0.5), (1.0, 2.0, 0.25))({"image": made})["image"]
    np.testing.assert_allclose(made.ravel(), [0, 0, 2], atol=1e-6)


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65_535)])
def test_images_of_8_and_16_bits_become_floats_in_0_to_1(dtype, largest):
    pixels = np.array([[0, largest // 5, largest]], dtype).reshape(1, 1, 3, 1)
    split = data.split({"image": pixels}, "deep")
    found = np.asarray(split.preprocess(split.padded(1)[0])["image"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), [0, 0.2, 1], rtol=1e-6)


def test_rescale_divides_16_bit_images_by_the_given_value():
    batch = {"image": np.array([[0, 4095]], np.uint16).reshape(1, 1, 2, 1)}
    np.testing.assert_array_equal(image.rescale(4095)(batch)["image"].ravel(), [0, 1])


def test_resize_resizes_and_repeats_grey():
    ramp = jnp.broadcast_to(jnp.arange(4.0).reshape(1, 1, 4, 1), (2, 4, 4, 1))
    made = image.resize((8, 8, 3))({"image": ramp})["image"]
    assert made.shape == (2, 8, 8, 3)
    assert (made[..., 0] == made[..., 2]).all()
    # Bilinear with pixel centres: output i stands at (i + 1/2) / 2 - 1/2, held at the borders.
    np.testing.assert_allclose(made[0, 3, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert (image.resize((4, 4, 1))({"image": ramp})["image"] == ramp).all()


def test_mistakes_are_told():
    with pytest.raises(UserError, match="3 channels cannot be resized to"):
        image.resize((8, 8, 1))(batch())
    with pytest.raises(UserError, match="2 means and 1 deviations; the images have 3"):
        image.normalize((0.1, 0.2), (1.0,))(batch())
