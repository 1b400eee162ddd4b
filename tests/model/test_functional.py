"""The contract of encode and decode: dtypes, gradients, transforms and messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from load import compilations
from models import POOLED, ROUNDING, SMALL, image, latent, random_model

import taesd_jax
from taesd_jax import VARIANTS, Full

DTYPES = ("float32", "bfloat16", "float16")


@pytest.fixture(scope="module", params=[SMALL, POOLED], ids=["plain", "pooled"])
def model(request):
    params, config = random_model(request.param)
    return jax.tree.map(jnp.asarray, params), config


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("param_dtype", DTYPES)
def test_the_input_dtype_is_the_output_dtype(model, dtype, param_dtype):
    params, config = model
    params = jax.tree.map(lambda p: p.astype(param_dtype), params)
    z = taesd_jax.encode(params, jnp.asarray(image(config, (16, 16)), dtype), config=config)
    x = taesd_jax.decode(params, z, config=config)
    assert (z.dtype, x.dtype) == (jnp.dtype(dtype), jnp.dtype(dtype))


def test_parameters_are_cast_to_the_computation(model):
    params, config = model
    z = jnp.asarray(latent(config, (2, 3)))
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    got = taesd_jax.decode(half, z, config=config)
    np.testing.assert_array_equal(got, taesd_jax.decode(wide, z, config=config))


def test_dtype_overrides_the_input(model):
    params, config = model
    z = jnp.asarray(latent(config, (2, 3)))
    got = taesd_jax.decode(params, z, config=config, dtype=jnp.bfloat16)
    expected = taesd_jax.decode(params, z.astype(jnp.bfloat16), config=config)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, expected)


def test_force_upcast_computes_in_float32(model):
    params, config = model
    z = jnp.asarray(latent(config, (4, 4)), jnp.bfloat16)
    plain = taesd_jax.decode(params, z, config=config)
    upcast = taesd_jax.decode(params, z, config=config.replace(force_upcast=True))
    exact = taesd_jax.decode(params, z.astype(jnp.float32), config=config)
    assert upcast.dtype == jnp.bfloat16
    np.testing.assert_array_equal(upcast, exact.astype(jnp.bfloat16))
    assert (plain != upcast).any()


def test_no_float64_creeps_in_and_float64_stays(model):
    params, config = model
    with jax.enable_x64(True):
        z = jnp.asarray(latent(config, (2, 2), dtype=np.float64))
        wide = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        assert taesd_jax.decode(wide, z, config=config).dtype == jnp.float64
        narrow = taesd_jax.decode(params, z.astype(jnp.float32), config=config)
        assert narrow.dtype == jnp.float32


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_gradients_with_and_without_rematerialisation_are_equal(model, direction):
    params, config = model
    x = jnp.asarray(image(config, (16, 24)) if direction == "encode" else latent(config, (2, 3)))
    run = getattr(taesd_jax, direction)

    def loss(params, x, remat):
        return jnp.sum(run(params, x, config=config, strategy=Full(remat=remat)) ** 2)

    find = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    plain, remat = find(params, x, False), find(params, x, True)
    # The recomputed activations are the same bits, but XLA may fuse what follows them otherwise.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, remat)
    used = plain[1][0][direction.removesuffix("e") + "er"]
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(used))
    assert jnp.any(plain[1][1] != 0)


def test_rematerialisation_computes_again():
    # Counted before XLA's passes: its CPU compiler merges what is computed twice.
    params, config = random_model(SMALL)
    z = jnp.asarray(latent(config, (2, 2)))

    def convolutions(remat):
        def loss(params):
            strategy = Full(remat=remat)
            return jnp.sum(taesd_jax.decode(params, z, config=config, strategy=strategy) ** 2)

        return jax.jit(jax.grad(loss)).lower(params).as_text().count("stablehlo.convolution")

    blocks = sum(config.num_decoder_blocks)
    assert convolutions(True) == convolutions(False) + 3 * blocks


def test_gradient_is_the_derivative():
    params, config = random_model(SMALL)
    params = jax.tree.map(jnp.asarray, params)
    z = jnp.asarray(latent(config, (2, 2)))
    direction = jnp.asarray(latent(config, (2, 2), seed=1))

    def loss(z):
        return jnp.mean(taesd_jax.decode(params, z, config=config) ** 2)

    slope = jnp.vdot(jax.grad(loss)(z), direction)
    step = 1e-2
    numeric = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    # Central differences of a piecewise smooth function in float32.
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)


def test_gradients_flow_in_bfloat16(model):
    params, config = model
    z = jnp.asarray(latent(config, (2, 3)), jnp.bfloat16)
    grads = jax.grad(lambda p: taesd_jax.decode(p, z, config=config).astype(jnp.float32).sum())(
        params
    )
    assert {g.dtype for g in jax.tree.leaves(grads["decoder"])} == {jnp.dtype("float32")}
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_it_composes_with_jit_vmap_and_scan(model):
    params, config = model
    z = jnp.asarray(latent(config, (2, 3), n=4))
    whole = taesd_jax.decode(params, z, config=config)
    jitted = jax.jit(lambda p, z: taesd_jax.decode(p, z, config=config))(params, z)
    mapped = jax.vmap(lambda z: taesd_jax.decode(params, z[None], config=config)[0])(z)
    _, scanned = jax.lax.scan(
        lambda c, z: (c, taesd_jax.decode(params, z[None], config=config)[0]), 0, z
    )
    for other in (jitted, mapped, scanned):
        np.testing.assert_array_equal(other, whole)


def test_taesd_and_taesdxl_share_one_program():
    params, _ = random_model(VARIANTS["taesd"])
    z = jnp.asarray(latent(VARIANTS["taesd"], (1, 1)))
    taesd_jax.decode(params, z, config=VARIANTS["taesd"])
    other = VARIANTS["taesdxl"]
    assert compilations(lambda: taesd_jax.decode(params, z, config=other)) == 0
    strategy = Full(remat=True)
    assert compilations(lambda: taesd_jax.decode(params, z, config=other, strategy=strategy)) > 0


def test_init_draws_every_component_in_the_dtype_asked_for():
    params = taesd_jax.init(jax.random.key(0), config=SMALL, dtype=jnp.bfloat16)
    assert set(params) == {"encoder", "decoder"}
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert taesd_jax.decode(params, latent(SMALL, (1, 1)), config=SMALL).shape == (1, 8, 8, 3)


def test_params_have_string_keys_only():
    params = taesd_jax.init(jax.random.key(0), config=SMALL)
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        assert all(isinstance(key.key, str) for key in path)


TAESD = VARIANTS["taesd"]


@pytest.mark.parametrize(
    ("function", "shape", "dtype", "error", "message"),
    [
        ("decode", (1, 64, 64, 16), "float32", ValueError,
         r"latent must be \(n, h, w, 4\), got shape \(1, 64, 64, 16\); did you mean "
         r"taesd3 or taef1\?"),
        ("decode", (1, 4, 4, 16), "float32", ValueError, r"if it is NCHW.*did you mean taesd3 or "),
        ("decode", (1, 4, 64, 64), "float32", ValueError, "looks like NCHW, transpose it with"),
        ("decode", (64, 64, 4), "float32", ValueError, r"add the batch axis with x\[None\]"),
        ("decode", (4,), "float32", ValueError, r"latent must be \(n, h, w, 4\), got shape \(4,\)"),
        ("decode", (1, 64, 64, 5), "float32", ValueError, r"must be \(n, h, w, 4\), got shape"),
        ("decode", (0, 64, 64, 4), "float32", ValueError, "latent must not be empty"),
        ("decode", (1, 0, 64, 4), "float32", ValueError, "latent must not be empty"),
        ("decode", (1, 8, 8, 4), "uint8", TypeError, "latent must be floating point, got uint8"),
        ("encode", (1, 3, 64, 64), "float32", ValueError, "looks like NCHW"),
        ("encode", (64, 64, 3), "float32", ValueError, r"add the batch axis with x\[None\]"),
        ("encode", (1, 64, 64, 4), "float32", ValueError, r"image must be \(n, h, w, 3\)"),
        ("encode", (1, 64, 0, 3), "float32", ValueError, "image must not be empty"),
        ("encode", (1, 8, 8, 3), "uint8", TypeError, "divide 8-bit values by 127.5 and subtract 1"),
        ("encode", (1, 8, 8, 3), "int32", TypeError, "image must be floating point, got int32"),
        ("encode", (1, 8, 8, 3), "complex64", TypeError, "image must be floating point"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(function, shape, dtype, error, message):
    params = {"encoder": {}, "decoder": {}}
    x = np.zeros(shape, dtype)
    with pytest.raises(error, match=message):
        getattr(taesd_jax, function)(params, x, config=TAESD)
    with pytest.raises(error, match=message):
        jax.jit(lambda x: getattr(taesd_jax, function)(params, x, config=TAESD))(x)


def test_an_ambiguous_layout_is_read_as_nhwc():
    # NCHW latents whose width equals the channel count cannot be told apart; the contract decides.
    params, config = random_model(SMALL)
    assert taesd_jax.decode(params, latent(config, (4, 4)), config=config).shape == (1, 32, 32, 3)


def test_not_an_array_is_refused():
    class Tensor:
        shape, dtype = (1, 8, 8, 4), "torch.float32"

    for value in ([[1.0]], None, Tensor()):
        with pytest.raises(TypeError, match="latent must be a JAX or numpy array"):
            taesd_jax.decode({"decoder": {}}, value, config=TAESD)


def test_wrong_params_are_refused():
    z = latent(TAESD, (1, 1))
    params, _ = random_model(SMALL)
    with pytest.raises(ValueError, match="params must be a dict with the key 'decoder', got"):
        taesd_jax.decode({"encoder": params["encoder"]}, z, config=TAESD)
    with pytest.raises(ValueError, match=r"mis-shaped \['layers_1.bias must be \(64,\), got"):
        taesd_jax.decode(params, z, config=TAESD)
    del params["decoder"]["layers_1"]["bias"]
    params["decoder"]["layers_99"] = np.zeros(3)
    with pytest.raises(
        ValueError, match=r"missing \['layers_1.bias'\], unexpected \['layers_99'\]"
    ):
        taesd_jax.decode(params, z, config=SMALL)


def test_an_integer_dtype_is_refused():
    params, config = random_model(SMALL)
    for dtype in (jnp.int32, jnp.float8_e4m3fn):
        with pytest.raises(TypeError, match="dtype must be float32, bfloat16, float16 or float64"):
            taesd_jax.decode(params, latent(config, (1, 1)), config=config, dtype=dtype)


def test_a_config_of_another_type_is_refused():
    for config in (None, {"latent_channels": 4}):
        with pytest.raises(TypeError, match="config must be an AutoencoderTinyConfig, got"):
            taesd_jax.decode({"decoder": {}}, latent(SMALL, (1, 1)), config=config)


def test_frozen_params_are_params():
    from flax.core import freeze

    params, config = random_model(SMALL)
    z = latent(config, (1, 2))
    expected = taesd_jax.decode(params, z, config=config)
    for frozen in (freeze(params), {"decoder": freeze(params["decoder"])}):
        np.testing.assert_array_equal(taesd_jax.decode(frozen, z, config=config), expected)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_a_batch_sharded_over_a_mesh_gives_the_same_result(model, kind):
    params, config = model
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(getattr(jax.sharding.AxisType, kind),))

    def place(tree, *spec):
        return jax.device_put(tree, jax.NamedSharding(mesh, jax.P(*spec)))

    x, z = image(config, (16, 16), n=8), latent(config, (2, 3), n=8)
    everywhere = place(params)
    for run, value in ((taesd_jax.encode, x), (taesd_jax.decode, z)):
        got = run(everywhere, place(value, "batch"), config=config)
        assert got.sharding.spec[0] == "batch"
        np.testing.assert_allclose(got, run(params, value, config=config), atol=ROUNDING, rtol=0)
