"""AutoencoderTiny: diffusers' surface, slicing, and its life as a pytree."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import POOLED, SMALL, image, latent, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, Full, Tiles


@pytest.fixture
def vae():
    return make(SMALL)


def make(config, **options):
    params, config = random_model(config)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config, **options)


def test_encode_and_decode_are_the_functions(vae):
    x, z = image(SMALL, (16, 24)), latent(SMALL, (2, 3))
    encoded = vae.encode(x)
    np.testing.assert_array_equal(
        encoded.latents, taesd_jax.encode(vae.params, x, config=vae.config)
    )
    decoded = vae.decode(z)
    np.testing.assert_array_equal(
        decoded.sample, taesd_jax.decode(vae.params, z, config=vae.config)
    )
    for named, plain in (
        (encoded, vae.encode(x, return_dict=False)),
        (decoded, vae.decode(z, return_dict=False)),
        (vae(x), vae(x, return_dict=False)),
    ):
        assert type(plain) is tuple
        np.testing.assert_array_equal(plain[0], named[0])


def test_call_stores_latents_in_8_bits(vae):
    x = image(SMALL, (16, 16))
    z = vae.encode(x).latents
    bytes_ = np.round(np.clip(np.asarray(z) / 6 + 0.5, 0, 1) * 255).astype(np.uint8)
    stored = (bytes_.astype(np.float32) / 255 - 0.5) * 6
    # One 8-bit step is 6 / 255 of a latent; both sides are exact to float32 rounding.
    np.testing.assert_allclose(vae(x).sample, vae.decode(stored).sample, atol=1e-5)
    assert np.abs(vae(x).sample - vae.decode(z).sample).max() > 1e-4


def test_scale_latents_is_diffusers_mapping(vae):
    z = jnp.array([-9.0, -3.0, 0.0, 1.5, 3.0, 9.0])
    np.testing.assert_allclose(vae.scale_latents(z), [0, 0, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(vae.unscale_latents(jnp.array([0, 0.5, 0.75, 1])), [-3, 0, 1.5, 3])
    low = vae.scale_latents(z.astype(jnp.bfloat16))
    assert low.dtype == vae.unscale_latents(low).dtype == jnp.bfloat16


def test_8_bit_values_are_no_latents(vae):
    for function in (vae.scale_latents, vae.unscale_latents):
        with pytest.raises(TypeError, match="dtype must be float32, .* got uint8"):
            function(jnp.zeros((1, 2, 2, 4), jnp.uint8))


def test_labels_are_part_of_the_tree():
    params, config = random_model(SMALL)
    a = AutoencoderTiny(params, config.replace(raw_latent_scale=0.5, raw_latent_shift=0.0))
    b = AutoencoderTiny(params, config.replace(raw_latent_scale=0.25, raw_latent_shift=0.0))
    to_model_space = jax.jit(lambda vae, raw: raw * vae.config.raw_latent_scale)
    assert (to_model_space(a, 1.0), to_model_space(b, 1.0)) == (0.5, 0.25)
    assert jax.tree.structure(a) != jax.tree.structure(b)


def test_integer_dtypes_are_refused(tmp_path):
    params, config = random_model(SMALL)
    taesd_jax.save(tmp_path, params, config)
    with pytest.raises(TypeError, match="dtype must be float32"):
        AutoencoderTiny(params, config, dtype="int32")
    with pytest.raises(TypeError, match="dtype must be float32"):
        AutoencoderTiny.from_pretrained(tmp_path, param_dtype="int8")


@pytest.mark.parametrize(
    ("config", "dtype", "batch_size"),
    [
        (SMALL, "float32", 2),
        (SMALL, "bfloat16", 1),
        (POOLED, "float32", 3),
        (POOLED, "bfloat16", 8),
    ],
    ids=["plain-2", "plain-1", "pooled-3", "pooled-8"],
)
def test_slicing_gives_the_bits_of_the_whole_batch(config, dtype, batch_size):
    vae = make(config)
    x = jnp.asarray(image(config, (16, 24), n=5), dtype)
    z = jnp.asarray(latent(config, (2, 3), n=5), dtype)
    whole = vae.encode(x).latents, vae.decode(z).sample
    vae.enable_slicing(batch_size)
    sliced = vae.encode(x).latents, vae.decode(z).sample
    vae.disable_slicing()
    again = vae.encode(x).latents, vae.decode(z).sample
    for a, b, c in zip(whole, sliced, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_slicing_bounds_the_temporaries():
    params, config = random_model(SMALL)

    def temporaries(n, run, **options):
        z = jnp.zeros((n, 16, 16, 4))
        lowered = jax.jit(lambda z: run(params, z, config=config, **options)).lower(z)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    eight = temporaries(8, taesd_jax.decode)
    assert temporaries(8, taesd_jax.decode, batch_size=1) < eight / 4
    assert temporaries(8, taesd_jax.decode, batch_size=4) < eight


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_bad_sizes_are_refused(vae, size):
    error = ValueError if type(size) is int else TypeError
    with pytest.raises(error, match="batch_size must be a positive integer, got"):
        vae.enable_slicing(size)
    with pytest.raises(error, match="size must be a positive integer, got"):
        vae.enable_tiling(size)
    if size is not None:
        with pytest.raises(error, match="batch_size must be a positive integer, got"):
            taesd_jax.decode(vae.params, latent(SMALL, (1, 1)), config=SMALL, batch_size=size)


def test_tiling_is_on_until_it_is_off():
    vae = make(SMALL)
    z = latent(SMALL, (3, 2))
    vae.enable_tiling(16)
    assert vae.strategy("decoder", z).strategy == Tiles(16)
    assert jax.tree.map(lambda leaf: leaf, vae).strategy("decoder", z).strategy == Tiles(16)
    vae.disable_tiling()
    assert vae.strategy("decoder", z).strategy == Full()


def test_dtype_is_the_dtype_of_the_results():
    vae = make(SMALL, dtype=jnp.bfloat16)
    x = image(SMALL, (16, 16))
    assert vae.encode(x).latents.dtype == vae(x).sample.dtype == jnp.bfloat16


def test_one_component_is_enough(vae):
    decoder = AutoencoderTiny({"decoder": vae.params["decoder"]}, vae.config)
    assert decoder.decode(latent(SMALL, (1, 1))).sample.shape == (1, 8, 8, 3)
    with pytest.raises(
        ValueError, match="the encoder is not loaded; tensors has no encoder; load a "
    ):
        decoder.encode(image(SMALL, (8, 8)))
    with pytest.raises(ValueError, match="the encoder is not loaded"):
        decoder(image(SMALL, (8, 8)))
    with pytest.raises(ValueError, match="the encoder is not loaded"):
        decoder.strategy("encoder", image(SMALL, (8, 8)))
    assert "decoder" in repr(decoder)
    assert " encoder" not in repr(decoder)


def test_it_is_a_pytree(vae):
    z = jnp.asarray(latent(SMALL, (1, 2)))
    expected = vae.decode(z).sample
    vae.enable_slicing(2)
    vae.enable_gradient_checkpointing()
    leaves, tree = jax.tree.flatten(vae)
    again = jax.tree.unflatten(tree, leaves)
    assert jax.tree.structure(again) == tree
    np.testing.assert_array_equal(again.decode(z).sample, expected)
    moved = jax.device_put(vae, jax.devices()[3])
    assert moved.params["decoder"]["layers_1"]["kernel"].devices() == {jax.devices()[3]}
    jitted = jax.jit(lambda vae, z: vae.decode(z).sample)(vae, z)
    np.testing.assert_array_equal(jitted, expected)
    grads = jax.grad(lambda vae: jnp.sum(vae.decode(z).sample))(vae)
    assert isinstance(grads, AutoencoderTiny)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads.params["decoder"]))
    assert not any(jnp.any(g != 0) for g in jax.tree.leaves(grads.params["encoder"]))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(vae)]
    assert ".params['decoder']['layers_1']['bias']" in paths


def test_it_can_be_copied_and_pickled(vae):
    z = latent(SMALL, (1, 1))
    for other in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        np.testing.assert_array_equal(other.decode(z).sample, vae.decode(z).sample)


def test_gradient_checkpointing_can_be_switched(vae):
    z = jnp.asarray(latent(SMALL, (1, 1)))

    def text():
        return jax.jit(jax.grad(lambda z: vae.decode(z).sample.sum())).lower(z).as_text()

    plain = text()
    vae.enable_gradient_checkpointing()
    remat = text()
    vae.disable_gradient_checkpointing()
    assert "optimization_barrier" in remat
    assert "optimization_barrier" not in plain
    assert "optimization_barrier" not in text()


def test_a_call_is_one_program_compiled_once(vae, caplog):
    z = jnp.asarray(latent(SMALL, (1, 1)))
    equations = jax.make_jaxpr(lambda z: vae.decode(z).sample)(z).eqns
    # The same strategy on all platforms: nothing is chosen when this is lowered.
    assert [equation.primitive.name for equation in equations] == ["jit"]
    vae.decode(z)
    with jax.log_compiles(True), jax.transfer_guard("disallow"):
        vae.decode(z)
    assert not caplog.records
    with jax.log_compiles(True):
        vae.decode(jnp.concatenate([z, z]))
    assert any("Compiling" in record.message for record in caplog.records)


def test_init_and_save_pretrained(tmp_path):
    vae = AutoencoderTiny.init(jax.random.key(3), SMALL, param_dtype=jnp.bfloat16)
    vae.save_pretrained(tmp_path / "model")
    again = AutoencoderTiny.from_pretrained(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, again.params, vae.params)
    assert again.config == SMALL
    wide = AutoencoderTiny.from_pretrained(
        tmp_path / "model", dtype="bfloat16", param_dtype="float32"
    )
    assert {p.dtype for p in jax.tree.leaves(wide.params)} == {jnp.dtype("float32")}
    assert wide.decode(latent(SMALL, (1, 1))).sample.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("params", "config", "error", "message"),
    [
        (None, SMALL, TypeError, "params must be a dict"),
        ({}, SMALL, ValueError, "'encoder' or 'decoder'"),
        ({"decoder": {}}, None, TypeError, "config must be an AutoencoderTinyConfig"),
    ],
)
def test_what_is_no_model_is_refused(params, config, error, message):
    with pytest.raises(error, match=message):
        AutoencoderTiny(params, config)
