"""A NumPy buffer may be written again as soon as a call returns, wherever the library takes one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SHORT, image, latent, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, Strips, Tiles
from taesd_jax.pipelines import FlaxAutoencoderTiny
from taesd_jax.previews import PreviewStream

CONFIG = SHORT.replace(raw_latent_scale=0.5, raw_latent_shift=0.25)
FRAMES = 4


@pytest.fixture(scope="module")
def vae():
    params, config = random_model(CONFIG)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)


def rows(strips):
    return np.concatenate([np.asarray(strip) for strip in strips], axis=1)


def check_reuse(run, frames):
    """Run on one buffer that holds each frame in turn, and on the frames themselves."""
    want = [np.asarray(run(jnp.asarray(frame))) for frame in frames]
    buffer, got = np.empty_like(frames[0]), []
    for frame in frames:
        buffer[...] = frame
        got.append(run(buffer))
        buffer[...] = 0.5
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({np.asarray(a).tobytes() for a in got}) == len(frames)


ENTRIES = {
    "encode": lambda vae, x: taesd_jax.encode(vae.params, x, config=vae.config),
    "vae.encode": lambda vae, x: vae.encode(x).latents,
    "vae": lambda vae, x: vae(x).sample,
    "iter_encode": lambda vae, x: rows(taesd_jax.iter_encode(vae.params, x, config=vae.config)),
    "decode": lambda vae, z: taesd_jax.decode(vae.params, z, config=vae.config),
    "vae.decode": lambda vae, z: vae.decode(z).sample,
    "strips": lambda vae, z: taesd_jax.decode(vae.params, z, config=vae.config, strategy=Strips()),
    "tiles": lambda vae, z: taesd_jax.decode(vae.params, z, config=vae.config, strategy=Tiles(4)),
    "iter_decode": lambda vae, z: rows(taesd_jax.iter_decode(vae.params, z, config=vae.config)),
    "from_vae_latents": lambda vae, z: taesd_jax.from_vae_latents(z, config=vae.config),
    "to_vae_latents": lambda vae, z: taesd_jax.to_vae_latents(z, config=vae.config),
    "scale_latents": lambda vae, z: vae.scale_latents(z),
    "unscale_latents": lambda vae, z: vae.unscale_latents(z),
    "pack_latents": lambda vae, z: taesd_jax.pack_latents(z),
    "patchify_latents": lambda vae, z: taesd_jax.patchify_latents(z),
    "unpatchify_latents": lambda vae, z: taesd_jax.unpatchify_latents(z),
    "unpack_latents": lambda vae, z: taesd_jax.unpack_latents(z.reshape(1, 64, 4), size=(16, 16)),
}


def make_frames(component):
    make, size = (latent, (8, 8)) if component == "decoder" else (image, (64, 64))
    return [make(CONFIG, size, seed=i) for i in range(FRAMES)]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_buffer_may_be_reused(vae, entry):
    component = "encoder" if "encode" in entry or entry == "vae" else "decoder"
    check_reuse(lambda x: ENTRIES[entry](vae, x), make_frames(component))


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_a_buffer_of_a_compiled_component_may_be_reused(vae, component):
    frames = make_frames(component)
    compiled = vae.compile(frames[0].shape, component=component)
    check_reuse(lambda x: compiled(vae, x), frames)


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_a_buffer_of_a_linen_module_may_be_reused(vae, method):
    module = FlaxAutoencoderTiny(CONFIG)

    def run(x):
        output = module.apply({"params": vae.params}, x, method=method)
        return output.sample if method == "decode" else output.latent_dist.mode()

    frames = make_frames(f"{method}r")
    check_reuse(run, [frame.transpose(0, 3, 1, 2).copy() for frame in frames])


def test_a_buffer_of_a_sampler_in_python_may_be_reused(vae):
    frames = make_frames("decoder")
    shown, buffer = {}, np.empty_like(frames[0])
    step = np.zeros((), np.int32)
    with PreviewStream(shown.__setitem__, config=CONFIG) as stream:
        for i, frame in enumerate(frames):
            buffer[...], step[...] = frame, i
            stream.tap(vae.params, step, buffer)
            buffer[...] = 0.5
    for i, frame in enumerate(frames):
        want = vae.decode(jnp.asarray(frame), out_dtype="uint8").sample
        np.testing.assert_array_equal(shown[i], want)


@pytest.mark.parametrize("strategy", [None, Tiles(4)], ids=str)
def test_params_in_numpy_may_be_reused(strategy):
    params, config = random_model(CONFIG)
    z = latent(CONFIG, (8, 8))

    def run():
        return taesd_jax.decode(params, z, config=config, strategy=strategy)

    want = np.asarray(run())
    image = run()
    for leaf in jax.tree.leaves(params):
        leaf[...] = 0
    np.testing.assert_array_equal(image, want)
