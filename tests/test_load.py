"""Many threads, many shapes: equal results, and no compilation that is not needed."""

import jax
import numpy as np
import pytest
from load import compilations, decode_together
from models import SMALL, latent, random_model

from taesd_jax import AutoencoderTiny


@pytest.fixture(scope="module")
def vae():
    return AutoencoderTiny(jax.device_put(random_model(SMALL)[0]), SMALL)


def test_eight_threads_decode_alike_and_compile_once(vae):
    vae.decode(latent(SMALL, (4, 4)))
    wrong = []
    counted = compilations(lambda: wrong.append(decode_together(vae, (4, 4), 80)))
    assert (wrong, counted) == ([0], 0)


def test_threads_that_come_first_wait_for_one_program(vae):
    jax.clear_caches()
    counted = compilations(lambda: decode_together(vae, (6, 4), 16))
    alone = AutoencoderTiny(vae.params, SMALL)
    jax.clear_caches()
    assert counted == compilations(lambda: alone.decode(latent(SMALL, (6, 4)))) > 0


def test_shapes_in_turn_compile_once_each(vae):
    shapes = [(4, 4), (4, 6), (6, 4), (5, 5)]
    for shape in shapes:
        vae.decode(latent(SMALL, shape))
    again = [np.asarray(latent(SMALL, shape)) for shape in shapes * 3]
    assert compilations(lambda: [vae.decode(z) for z in again]) == 0


def test_one_program_for_tiles_of_every_size():
    vae = AutoencoderTiny(jax.device_put(random_model(SMALL)[0]), SMALL)
    vae.enable_tiling(8)
    vae.decode(latent(SMALL, (30, 41)))
    others = [latent(SMALL, shape) for shape in ((33, 47), (50, 29), (64, 64))]
    assert compilations(lambda: [vae.decode(z) for z in others]) == 0
