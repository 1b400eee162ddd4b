"""Losses and metrics, against other libraries and plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taesd_jax import metrics
from taesd_jax.training import LOSSES, losses

# Float32 sums of a few thousand terms, in another order.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (2, 32, 40, 3)).astype("f4")
    return np.clip(target + 0.3 * rng.normal(size=target.shape), -1, 1).astype("f4"), target


PLAIN = [name for name, row in LOSSES.items() if row.compares != "features" and not row.extras]


@pytest.mark.parametrize("name", PLAIN)
def test_equal_images_have_no_loss_and_gradients_are_finite(name, pair):
    image, target = map(jnp.asarray, pair)
    loss = LOSSES[name].function
    assert loss(image, image) == pytest.approx(0, abs=1e-6)
    assert loss(image, target) > 0
    gradient = jax.jit(jax.grad(loss))
    for x in (image, target, jnp.zeros_like(target)):
        assert np.isfinite(gradient(x, target)).all()


@pytest.mark.parametrize("name", [name for name in PLAIN if LOSSES[name].min_size > 1])
def test_losses_take_the_smallest_crops_that_they_name(name):
    size, loss = LOSSES[name].min_size, LOSSES[name].function
    assert loss(*jnp.zeros((2, 1, size, size, 3))) == pytest.approx(0, abs=1e-6)


def test_ssim_is_scikit_images(pair):
    from skimage.metrics import structural_similarity

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options |= {"channel_axis": -1, "data_range": 1.0, "full": True}
    for image, target in zip(*pair, strict=True):
        _, full = structural_similarity((image + 1) / 2, (target + 1) / 2, **options)
        got = metrics.ssim(image[None], target[None])
        assert got == pytest.approx(full[5:-5, 5:-5].mean(), abs=ROUNDING)


def test_gmsd_by_scipy(pair):
    from scipy.ndimage import correlate

    prewitt = np.array([[1, 0, -1]] * 3) / 3
    want = []
    for image, target in zip(*pair, strict=True):
        maps = []
        for x in (image, target):
            luma = (x + 1) * 127.5 @ np.array([0.299, 0.587, 0.114])
            small = luma.reshape(16, 2, 20, 2).mean((1, 3))
            parts = [correlate(small, kernel)[1:-1, 1:-1] for kernel in (prewitt, prewitt.T)]
            maps.append(np.hypot(*parts))
        a, b = maps
        want.append(np.std((2 * a * b + 170) / (a**2 + b**2 + 170)))
    assert float(metrics.gmsd(*pair)) == pytest.approx(np.mean(want), rel=1e-4)
    assert metrics.gmsd(pair[0], pair[0]) == 0


def bands(x):
    """Filter images (n, h, w, c) as Laws did, -> (8, n, h - 2, w - 2, c)."""
    from scipy.ndimage import correlate1d

    taps = np.array([[1, 2, 1], [2, 0, -2], [2, -4, 2]]) / 4
    products = [
        correlate1d(correlate1d(x.astype("f8"), a, 1), b, 2)[:, 1:-1, 1:-1]
        for a in taps
        for b in taps
    ]
    return np.stack(products[1:])


def test_sharpness_by_scipy(pair):
    from scipy.ndimage import gaussian_filter

    image = pair[1]
    blurred = np.stack([gaussian_filter(x, (1, 1, 0)) for x in image]).astype("f4")
    luma = [x @ np.array([0.299, 0.587, 0.114])[:, None] for x in (image, blurred)]
    a, b = (np.sqrt((bands(x) ** 2).mean((2, 3, 4))) for x in luma)
    want = np.minimum(b / a, 1).mean()
    assert float(metrics.sharpness(image, blurred)) == pytest.approx(want, rel=1e-4)
    assert want < 0.5
    assert metrics.sharpness(image, image) == 1
    flat = jnp.zeros((1, 8, 8, 3))
    assert metrics.sharpness(flat, flat) == 1
    with pytest.raises(ValueError, match="sharpness needs sides of 3"):
        metrics.sharpness(image[:, :2], image[:, :2])


def test_a_grid_of_pixels_hides_no_blur(pair):
    from scipy.ndimage import gaussian_filter

    image = pair[1]
    blurred = np.stack([gaussian_filter(x, (1, 1, 0)) for x in image]).astype("f4")
    y, x = np.indices(image.shape[1:3])
    gridded = blurred + 0.3 * ((-1.0) ** (x + y))[None, :, :, None].astype("f4")
    # One band of eight is full, and the others are as they were.
    gain = metrics.sharpness(image, gridded) - metrics.sharpness(image, blurred)
    assert 0 < gain < 1 / 8


def test_pixel_losses_by_numpy(pair):
    image, target = pair
    assert losses.mse(image, target) == pytest.approx(((image - target) ** 2).mean(), rel=1e-5)
    small = [x.reshape(2, 4, 8, 5, 8, 3).mean((2, 4)) for x in pair]
    want = ((small[0] - small[1]) ** 2).mean()
    assert losses.mse_eighth(image, target) == pytest.approx(want, rel=1e-4)
    want = np.abs(np.diff([abs(np.fft.rfft2(x, axes=(1, 2), norm="ortho")) for x in pair], axis=0))
    assert losses.amplitude(image, target) == pytest.approx(want.mean(), rel=1e-4)


def test_texture_by_scipy(pair):
    from scipy.ndimage import gaussian_filter

    # Three standard deviations' radius is cut to 3 pixels: 7 in all.
    energies = (gaussian_filter(bands(x) ** 2, 1.5, axes=(2, 3), radius=3) for x in pair)
    a, b = (np.sqrt(x[:, :, 3:-3, 3:-3] + 1e-6) for x in energies)
    assert losses.texture(*pair) == pytest.approx(((a - b) ** 2).mean(), rel=1e-4)


def test_sharpen_by_scipy(pair):
    from scipy.ndimage import convolve

    image = pair[0] / 2  # room for what is added
    taps = np.outer((1, 2, 1), (1, 2, 1)).astype("f4")[:, :, None] / 16
    blurred = np.stack([convolve(x, taps, mode="nearest") for x in image])
    expected = np.clip(image + 0.7 * (image - blurred), -1, 1)
    got = losses.sharpen(jnp.asarray(image), 0.7)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(losses.sharpen(jnp.asarray(pair[0]), 5.0)).max() == 1


def test_blur_has_jaxs_own_gradient(pair):
    image = jnp.asarray(pair[0])
    weights = jax.random.normal(jax.random.key(0), (2, 26, 34, 3))

    def plain(x):
        taps = np.exp(-((np.arange(7) - 3) ** 2) / 4.5)
        kernel = jnp.asarray(np.outer(taps, taps) / taps.sum() ** 2, "f4")[..., None, None]
        x = jnp.moveaxis(x, -1, 1).reshape(6, 32, 40, 1)
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.moveaxis(x.reshape(2, 3, 26, 34), 1, -1)

    assert np.allclose(metrics.blur(image, window=7), plain(image), atol=ROUNDING)
    gradient = jax.grad(lambda x: (weights * metrics.blur(x, window=7)).sum())(image)
    want = jax.grad(lambda x: (weights * plain(x)).sum())(image)
    assert np.allclose(gradient, want, atol=ROUNDING)


def test_metrics_say_which_sides_they_need():
    x = jnp.zeros((1, 10, 16, 3))
    with pytest.raises(ValueError, match=r"ssim needs sides of 11 at least, got shape"):
        metrics.ssim(x, x)
    with pytest.raises(ValueError, match=r"gmsd needs sides of 6 at least"):
        metrics.gmsd(x[:, :5], x[:, :5])
