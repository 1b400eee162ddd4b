"""Random models, the same bits on every machine, drawn by published name with numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTinyConfig, weights
from taesd_jax.model.layers import COMPONENTS, build_layers, scales_of
from taesd_jax.model.thumbnails import features
from taesd_jax.weights.names import file_name, tensor_shapes, to_flax

SMALL = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8)
)
ONE_BLOCK = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
# Every kind of layer, and little to compile.
SHORT = SMALL.replace(**ONE_BLOCK)
POOLED = SHORT.replace(pool_channels=16)
NARROWING = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 16, 24, 32), decoder_block_out_channels=(32, 24, 16, 8)
)
NARROWING_IN_BLOCKS = NARROWING.replace(width_change="block")
CONFIGS = {
    **VARIANTS,
    "small": SMALL,
    "wide": AutoencoderTinyConfig(decoder_block_out_channels=(192,) * 4),
    "narrowing": NARROWING,
    "narrowing in blocks": NARROWING_IN_BLOCKS,
    "few blocks": AutoencoderTinyConfig(
        num_encoder_blocks=(0, 1, 2, 1), num_decoder_blocks=(1, 0, 2, 0)
    ),
    "one stage": AutoencoderTinyConfig(
        encoder_block_out_channels=(8,),
        num_encoder_blocks=(1,),
        decoder_block_out_channels=(8,),
        num_decoder_blocks=(1,),
    ),
    "rgba": AutoencoderTinyConfig(in_channels=4, out_channels=4),
}

# Two orders of one float32 sum, as kernels have them for other shapes, batches and meshes. Results
# of these models are about 1, the largest 10; differences of 6e-7 were seen.
ROUNDING = 2e-5


def random_state(component, config, seed=0, dtype=np.float32):
    """Return published key -> PyTorch tensor, scaled so that activations stay near 1."""
    rng = np.random.default_rng((seed, COMPONENTS.index(component)))
    state = {}
    for key, shape in tensor_shapes(build_layers(component, config)).items():
        x = rng.standard_normal(shape)
        if len(shape) == 4:
            gain = 0.5 if ".conv.4." in key else 1.4
            x *= gain / np.sqrt(np.prod(shape[1:]))
        else:
            x = 0.1 * x + (1 if key.endswith("pool.1.weight") else 0)
        state[key] = x.astype(dtype)
    return state


def random_states(config, seed=0, dtype=np.float32):
    return {component: random_state(component, config, seed, dtype) for component in COMPONENTS}


def named(states, format):
    """Put the components of `random_states` into one dict with the names of a format."""
    return {
        file_name(k, component, format): to_flax(v) if format == "flax" else v
        for component in states
        for k, v in states[component].items()
    }


def part(tensors, origin="tensors"):
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    return weights.Part(origin, shapes, {}, lambda names: {name: tensors[name] for name in names})


def assemble(tensors, fields=None, variant=""):
    """Build a checkpoint from one dict of named tensors."""
    return weights.assemble([part(tensors)], fields=fields or {}, variant=variant, origin="tensors")


def random_model(config, seed=0, dtype=np.float32):
    """Return params and config of a random model."""
    fields = config.to_dict()
    params, config, _ = assemble(named(random_states(config, seed, dtype), "module"), fields)
    return params, config


def compiled(run, config, shape, dtype="float32", **options):
    """Compile `encode` or `decode` for an input of that shape and dtype."""
    params = jax.eval_shape(lambda: taesd_jax.init(jax.random.key(0), config=config))
    jitted = jax.jit(lambda params, x: run(params, x, config=config, **options))
    return jitted.lower(params, jax.ShapeDtypeStruct(shape, dtype)).compile()


def temporaries(*args, **options):
    """Return the bytes that what `compiled` compiles takes beside params, input and result."""
    return compiled(*args, **options).memory_analysis().temp_size_in_bytes


def image(config, size, n=1, seed=0, dtype=np.float32):
    shape = (n, *size, config.in_channels)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def latent(config, size, n=1, seed=0, dtype=np.float32):
    shape = (n, *size, config.latent_channels)
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def write_pair(folder, name="taesd", config=SMALL, dtype=np.float32):
    for component in ("encoder", "decoder"):
        save_file(
            random_state(component, config, dtype=dtype), folder / f"{name}_{component}.safetensors"
        )
    return folder / name


def same(a, b):
    """Whether two trees have the same keys, dtypes and bits."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def with_thumbnails(params, config, seed=0):
    rng, heads = np.random.default_rng(seed), {}
    for scale in scales_of(config):
        z = jnp.zeros((1, 1, 1, config.latent_channels))
        parts = features(params["decoder"], z, config=config, scale=scale)
        channels = sum(part.shape[-1] for part in parts)
        kernel = rng.standard_normal((3, 3, channels, 3)) / np.sqrt(9 * channels)
        bias = 0.1 * rng.standard_normal(3)
        heads[str(round(1 / scale))] = {
            "kernel": kernel.astype(np.float32),
            "bias": bias.astype(np.float32),
        }
    return {**params, "thumbnails": heads}
