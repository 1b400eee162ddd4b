"""What holds for strips and for tiles alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import POOLED, ROUNDING, SHORT, image, latent, random_model

from taesd_jax import VARIANTS, Full, Strips, Tiles, decode, encode

# jax 0.12 sums a tile's products in another order than the full image's; 1.3e-5 was seen.
TILES_HAVE_EQUAL_BITS = jax.__version_info__ < (0, 11)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taef2", "taesana"])
def test_every_variant_gives_the_bits_of_the_full_image(name):
    # Its widths and activations; more blocks of the same would only be compiled longer.
    config = VARIANTS[name]
    config = config.replace(
        num_encoder_blocks=(1,) * len(config.num_encoder_blocks),
        num_decoder_blocks=(1,) * len(config.num_decoder_blocks),
    )
    params, _ = random_model(config)
    tile = max(8, 64 // config.spatial_factor)
    side = tile * config.spatial_factor
    z, x = latent(config, (2 * tile + 3, tile - 1)), image(config, (side + 5, side - 3))
    for run, value in ((decode, z), (encode, x)):
        full = run(params, value, config=config)
        for strategy, equal in ((Strips(), True), (Tiles(tile), TILES_HAVE_EQUAL_BITS)):
            got = run(params, value, config=config, strategy=strategy)
            np.testing.assert_allclose(got, full, atol=0 if equal else ROUNDING, rtol=0)


def test_gradients():
    params, config = random_model(POOLED)
    z = jnp.asarray(latent(config, (9, 3)))

    def gradient(strategy):
        def loss(z):
            return jnp.sum(decode(params, z, config=config, strategy=strategy) ** 2)

        return jax.jit(jax.grad(loss))(z)

    full = gradient(Full())
    for strategy in (Strips(), Tiles(4)):
        # Sums of the same terms in another order; gradients here reach about 10.
        np.testing.assert_allclose(gradient(strategy), full, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("strategy", [Strips(), Tiles()], ids=str)
def test_wrong_arrays_are_refused_before_any_work(strategy):
    with pytest.raises(ValueError, match="looks like NCHW"):
        decode({}, np.zeros((1, 4, 8, 8), "f"), config=SHORT, strategy=strategy)
    with pytest.raises(TypeError, match="image must be floating point"):
        encode({}, np.zeros((1, 8, 8, 3), np.uint8), config=SHORT, strategy=strategy)
