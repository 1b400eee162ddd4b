"""Blocks and whole models against plain PyTorch, and what the modules promise beside numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from models import NARROWING, NARROWING_IN_BLOCKS, image, latent, random_model, random_states

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTinyConfig
from taesd_jax.model.blocks import Block
from taesd_jax.model.convolutions import Conv, UpsampleConv
from taesd_jax.model.functional import abstract_params
from taesd_jax.model.layers import COMPONENTS, build_layers
from taesd_jax.weights.names import flax_name, tensor_shapes, to_torch_shape

torch = pytest.importorskip("torch")
reference = pytest.importorskip("reference")
to_numpy, to_torch = reference.to_numpy, reference.to_torch

pytestmark = pytest.mark.oracle

# Float32 sums in another order: 5e-5 is the promise on images of [-1, 1]. Random decoders give
# outputs of up to 23, and roundings of up to 4e-6 of the largest (seen on two processors).
FLOAT32, OF_LARGEST = 5e-5, 7e-6
# One convolution of 64 channels: 576 products of about 1.
ONE_LAYER = 5e-6

CONFIGS = {
    **VARIANTS,
    "wide": AutoencoderTinyConfig(
        encoder_block_out_channels=(24,) * 4, decoder_block_out_channels=(96,) * 4
    ),
    "narrowing": NARROWING,
    "narrowing in blocks": NARROWING_IN_BLOCKS,
    "two stages": AutoencoderTinyConfig(
        encoder_block_out_channels=(16, 16),
        num_encoder_blocks=(0, 2),
        decoder_block_out_channels=(16, 16),
        num_decoder_blocks=(2, 0),
    ),
    "pool in narrow": AutoencoderTinyConfig(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        pool_channels=32,
    ),
    **{
        act: AutoencoderTinyConfig(
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(16,) * 4,
            act_fn=act,
        )
        for act in ("silu", "gelu", "mish")
    },
}
TORCH_ACT = {
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "mish": torch.nn.functional.mish,
}


def set_params(module, values):
    nnx.update(module, jax.tree.map(jnp.asarray, values))
    return module


@pytest.mark.parametrize("width", [(64, 64, 0), (16, 24, 0), (64, 64, 256), (12, 20, 8)])
@pytest.mark.parametrize("act", list(TORCH_ACT))
def test_block(width, act):
    n_in, n_out, pool = width
    rng = np.random.default_rng(0)
    block = Block(n_in, n_out, pool_channels=pool, act_fn=act, rngs=nnx.Rngs(0))
    params = jax.tree.map(
        lambda p: rng.standard_normal(p.shape, np.float32) / np.float32(3 * p.shape[-1] ** 0.5),
        nnx.to_pure_dict(nnx.state(block)),
    )
    set_params(block, params)
    state = {}
    for name, leaves in params.items():
        key = "b." + name.replace("_", ".")
        for leaf, value in leaves.items():
            suffix = {"kernel": "weight", "scale": "weight", "bias": "bias"}[leaf]
            torch_value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            state[f"{key}.{suffix}"] = torch.from_numpy(np.ascontiguousarray(torch_value))
    x = rng.standard_normal((2, 7, 5, n_in), np.float32)
    expected = to_numpy(reference.block(state, "b", to_torch(x), TORCH_ACT[act]))
    np.testing.assert_allclose(block(jnp.asarray(x)), expected, atol=ONE_LAYER, rtol=ONE_LAYER)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (2, 9)])
def test_conv(stride, size):
    rng = np.random.default_rng(1)
    conv = Conv(6, 10, stride=stride, rngs=nnx.Rngs(0))
    bias = rng.standard_normal(10, np.float32)
    set_params(conv, {"bias": bias})
    x = rng.standard_normal((2, *size, 6), np.float32)
    weight = torch.from_numpy(np.array(conv.kernel[...]).transpose(3, 2, 0, 1).copy())
    expected = torch.nn.functional.conv2d(
        to_torch(x), weight, torch.from_numpy(bias), stride, padding=1
    )
    np.testing.assert_allclose(conv(jnp.asarray(x)), to_numpy(expected), atol=ONE_LAYER)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 6)])
def test_upsample_conv(size):
    up = UpsampleConv(6, 10, rngs=nnx.Rngs(0))
    x = np.random.default_rng(2).standard_normal((2, *size, 6), np.float32)
    weight = torch.from_numpy(np.array(up.kernel[...]).transpose(3, 2, 0, 1).copy())
    larger = torch.nn.functional.interpolate(to_torch(x), scale_factor=2, mode="nearest")
    expected = torch.nn.functional.conv2d(larger, weight, padding=1)
    np.testing.assert_allclose(up(jnp.asarray(x)), to_numpy(expected), atol=ONE_LAYER)


def assert_same(got, expected):
    atol = max(FLOAT32, OF_LARGEST * np.abs(expected).max())
    np.testing.assert_allclose(got, expected, atol=atol, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONFIGS))
def test_whole_model(name):
    config = CONFIGS[name]
    factor = config.spatial_factor
    states = random_states(config)
    params, _ = random_model(config)
    torch_states = {
        component: {k: torch.from_numpy(v) for k, v in states[component].items()}
        for component in COMPONENTS
    }
    act = TORCH_ACT[config.act_fn]
    # Odd sizes: one that the factor divides into an odd number, one that it does not divide.
    x = image(config, (3 * factor, factor + 5), n=2)
    z = latent(config, (3, 5), n=2)
    expected = to_numpy(reference.encode(torch_states["encoder"], to_torch(x), act))
    got = taesd_jax.encode(params, x, config=config)
    assert got.shape == (2, 3, -(-(factor + 5) // factor), config.latent_channels)
    assert_same(got, expected)
    expected = to_numpy(reference.decode(torch_states["decoder"], to_torch(z), act))
    got = taesd_jax.decode(params, z, config=config)
    assert got.shape == (2, 3 * factor, 5 * factor, 3)
    assert_same(got, expected)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_modules_have_the_tensors_that_the_layer_list_names(name):
    config = CONFIGS[name]
    for component in COMPONENTS:
        named = {
            flax_name(key, component): shape
            for key, shape in tensor_shapes(build_layers(component, config)).items()
        }
        leaves = flatten_dict({component: abstract_params(component, config)}, sep=".")
        built = {name: to_torch_shape(leaf.shape) for name, leaf in leaves.items()}
        assert built == named


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [
        ("taesd", 1_222_532, 1_222_531),
        ("taesd3", 1_229_456, 1_229_443),
        ("taef2", 1_338_528, 1_338_499),
        ("taesana", 1_256_288, None),
    ],
)
def test_parameter_counts_are_the_published_ones(name, encoder, decoder):
    for component, count in (("encoder", encoder), ("decoder", decoder)):
        leaves = jax.tree.leaves(abstract_params(component, VARIANTS[name]))
        if count:
            assert sum(leaf.size for leaf in leaves) == count


def test_half_precision_pytorch_agrees_on_random_models():
    # The bound in bfloat16: no more than 1.2 times PyTorch's own error against float32.
    for name in ("taesd", "taef2", "taesana"):
        config = VARIANTS[name]
        states, (params, _) = random_states(config), random_model(config)
        # Images of 64 pixels: PyTorch's bfloat16 is slow on processors that lack it.
        side = 64 // config.spatial_factor
        z = latent(config, (side, side)).astype(jnp.bfloat16)
        state = {k: torch.from_numpy(v) for k, v in states["decoder"].items()}
        torch_z = to_torch(z.astype(np.float32))
        truth = to_numpy(reference.decode(state, torch_z))
        component = {k: v.bfloat16() for k, v in state.items()}
        theirs = to_numpy(reference.decode(component, torch_z.bfloat16()).float())
        ours = np.asarray(taesd_jax.decode(params, z, config=config), np.float32)
        assert np.abs(ours - truth).mean() <= 1.2 * np.abs(theirs - truth).mean(), name
