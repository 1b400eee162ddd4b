"""FlaxAutoencoderTiny in diffusers' real Flax pipelines, and in MaxDiffusion's call forms."""

import copy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from models import SHORT, image, latent, random_model

from taesd_jax import VARIANTS, AutoencoderTiny
from taesd_jax.pipelines import FlaxAutoencoderTiny
from taesd_jax.pipelines.maxdiffusion import replace_vae, with_base

PROMPTS = ["a photograph of a cat", "a dog"]
# The pipelines round to 8 bits nowhere: what remains is fusion inside their own jit.
FUSION = 2e-6


@pytest.fixture(scope="module")
def tiny():
    params, config = random_model(SHORT)
    return FlaxAutoencoderTiny(config), jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    """diffusers mixes dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def make_unet(channels):
    """Return a small random UNet and its params."""
    import diffusers

    unet = diffusers.FlaxUNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=32,
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(unet.init_weights, jax.random.key(0))
    return unet, jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.05, s.shape), s.dtype), shapes)


@pytest.fixture(scope="module")
def parts():
    """Return a small random UNet, text encoder and scheduler of diffusers, and their params."""
    diffusers = pytest.importorskip("diffusers", reason="the oracles run on Python 3.11")
    transformers = pytest.importorskip("transformers")
    diffusers.logging.set_verbosity_error()
    unet, unet_params = make_unet(4)
    text = transformers.CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=1,
        vocab_size=100,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=99,
        pad_token_id=99,
    )
    text = transformers.FlaxCLIPTextModel(text, seed=0, dtype=jnp.float32)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.FlaxDDIMScheduler(**betas)
    params = {
        "unet": unet_params,
        "text_encoder": text.params,
        "scheduler": scheduler.create_state(),
    }
    modules = {
        "unet": unet,
        "text_encoder": text,
        "scheduler": scheduler,
        "tokenizer": Tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    return modules, params


class Tokenizer:
    """Turn prompts into fixed-length token ids."""

    model_max_length = 16
    # Pipelines take the last package of a module's name.
    __module__ = "tests.test_linen"

    def __call__(self, prompt, *, max_length=16, **_):
        ids = np.full((len(prompt), max_length), 99, np.int32)
        for row, text in zip(ids, prompt, strict=True):
            row[: len(text[:max_length])] = [ord(c) % 97 for c in text[:max_length]]
        return types.SimpleNamespace(input_ids=ids)


class Recorder(FlaxAutoencoderTiny):
    """Keeps the latents that a pipeline decodes and encodes, where they are not traced."""

    __module__ = "tests.test_linen"

    def decode(self, latents, *args, **options):
        self.seen = latents
        return super().decode(latents, *args, **options)


def pipeline(name, parts, tiny):
    import diffusers

    modules, params = parts
    vae, vae_params = tiny
    vae = Recorder(vae.architecture)
    return getattr(diffusers, name)(vae=vae, **modules), params | {"vae": vae_params}, vae


def expected(vae, tiny):
    """Decode what the pipeline decoded, as its images: NHWC in [0, 1]."""
    latents = jnp.transpose(vae.seen, (0, 2, 3, 1))
    images = AutoencoderTiny(tiny[1], vae.architecture).decode(latents).sample
    return np.clip(np.asarray(images) / 2 + 0.5, 0, 1)


@pytest.mark.slow
@pytest.mark.oracle
def test_text_to_image(parts, tiny):
    pipe, params, vae = pipeline("FlaxStableDiffusionPipeline", parts, tiny)
    assert pipe.vae_scale_factor == 8
    ids, key = pipe.prepare_inputs(PROMPTS), jax.random.key(1)
    images = pipe(
        ids, params, key, num_inference_steps=2, height=64, width=64, guidance_scale=jnp.array(7.5)
    ).images
    assert images.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(images, expected(vae, tiny), atol=FUSION)
    assert images.std() > 0.05
    compiled = jax.jit(lambda ids, params, key: pipe._generate(ids, params, key, 2, 64, 64, 7.5))
    # A jitted UNet rounds otherwise than an eager one.
    np.testing.assert_allclose(compiled(ids, params, key), images, atol=1e-4)


@pytest.mark.slow
@pytest.mark.oracle
def test_text_to_image_on_several_devices(parts, tiny):
    pipe, params, _ = pipeline("FlaxStableDiffusionPipeline", parts, tiny)
    ids, key = pipe.prepare_inputs(PROMPTS), jax.random.key(1)
    devices = 2
    params = jax.tree.map(lambda x: jnp.stack([x] * devices), params)
    keys = jax.random.split(key, devices)
    images = pipe(ids.reshape(devices, 1, -1), params, keys, 2, 64, 64, jit=True).images
    assert images.shape == (devices, 1, 64, 64, 3)
    single = jax.jit(lambda ids, params, key: pipe._generate(ids, params, key, 2, 64, 64, 7.5))
    one = jax.tree.map(lambda x: x[0], params)
    for i in range(devices):
        np.testing.assert_allclose(images[i], single(ids[i : i + 1], one, keys[i]), atol=1e-4)


@pytest.mark.slow
@pytest.mark.oracle
def test_image_to_image(parts, tiny):
    from PIL import Image

    pipe, params, vae = pipeline("FlaxStableDiffusionImg2ImgPipeline", parts, tiny)
    pixels = np.uint8(np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    ids, images = pipe.prepare_inputs(PROMPTS, [Image.fromarray(pixels)] * 2)
    options = {"num_inference_steps": 4, "height": 64, "width": 64, "strength": 0.5}
    options["guidance_scale"] = jnp.array(7.5)
    result = pipe(ids, images, params, jax.random.key(1), **options).images
    assert result.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(result, expected(vae, tiny), atol=FUSION)
    start = pipe.get_timestep_start(4, 0.5)
    compiled = jax.jit(
        lambda ids, images, params, key: pipe._generate(
            ids, images, params, key, start, 4, 64, 64, 7.5
        )
    )
    # The same through one jit, up to the UNet's rounding.
    np.testing.assert_allclose(compiled(ids, images, params, jax.random.key(1)), result, atol=1e-4)


@pytest.mark.slow
@pytest.mark.oracle
def test_inpainting(parts, tiny):
    from PIL import Image

    modules, params = parts
    # Latents, the mask, and the latents of the masked image.
    unet, unet_params = make_unet(4 + 1 + 4)
    parts = modules | {"unet": unet}, params | {"unet": unet_params}
    pipe, params, vae = pipeline("FlaxStableDiffusionInpaintPipeline", parts, tiny)
    pixels = np.uint8(np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    ids, images, masks = pipe.prepare_inputs(
        PROMPTS, [Image.fromarray(pixels)] * 2, [Image.fromarray(mask)] * 2
    )
    options = {"num_inference_steps": 2, "height": 64, "width": 64}
    options["guidance_scale"] = jnp.array(7.5)
    result = pipe(ids, masks, images, params, jax.random.key(1), **options).images
    assert result.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(result, expected(vae, tiny), atol=FUSION)


@pytest.mark.slow
@pytest.mark.oracle
def test_a_pipeline_is_saved_and_opened_with_the_tiny_model(parts, tiny, tmp_path):
    import diffusers

    modules, params = parts
    full = diffusers.FlaxAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
    )
    pipe = diffusers.FlaxStableDiffusionPipeline(vae=full, **modules | {"tokenizer": None})
    params = params | {}
    replace_vae(pipe, params, AutoencoderTiny(tiny[1], tiny[0].architecture))
    pipe.save_pretrained(tmp_path, params)
    opened = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "vae")
    assert opened.config.latent_channels == SHORT.latent_channels
    options = {"tokenizer": None, "safety_checker": None, "feature_extractor": None}
    vae, vae_params = FlaxAutoencoderTiny.from_pretrained(tmp_path, subfolder="vae")
    jax.tree.map(np.testing.assert_array_equal, vae_params, params["vae"])
    for given in (None, with_base(vae, diffusers.FlaxModelMixin)):
        loaded, again = diffusers.FlaxStableDiffusionPipeline.from_pretrained(
            tmp_path, vae=given, **options
        )
        replace_vae(loaded, again, AutoencoderTiny(vae_params, vae.architecture))
        loaded.tokenizer = Tokenizer()
        ids = loaded.prepare_inputs(PROMPTS[:1])
        again["scheduler"] = params["scheduler"]
        images = loaded(ids, again, jax.random.key(1), 1, 64, 64).images
        assert images.shape == (1, 64, 64, 3)
    # What was opened with a module is saved and opened again.
    loaded.tokenizer = None
    loaded.save_pretrained(tmp_path / "again", again)
    vae, vae_params = FlaxAutoencoderTiny.from_pretrained(tmp_path / "again" / "vae")
    jax.tree.map(np.testing.assert_array_equal, vae_params, params["vae"])
    given = with_base(vae, diffusers.FlaxModelMixin)
    loaded, _ = diffusers.FlaxStableDiffusionPipeline.from_pretrained(
        tmp_path / "again", vae=given, **options
    )
    assert loaded.vae is given


def decoded(tiny, z):
    vae, params = tiny
    images = AutoencoderTiny(params, vae.architecture).decode(jnp.asarray(z)).sample
    return jnp.transpose(images, (0, 3, 1, 2))


@pytest.mark.parametrize(
    "form", ["position", "keyword", "name", "deterministic", "frozen", "tuple"]
)
def test_call_forms(tiny, form):
    vae, params = tiny
    z = latent(SHORT, (5, 3), n=2)
    nchw = z.transpose(0, 3, 1, 2)
    variables = {"params": params}
    result = {
        "position": lambda: vae.apply(variables, nchw, method=vae.decode).sample,
        "keyword": lambda: vae.apply(variables, latents=nchw, method=vae.decode).sample,
        "name": lambda: vae.apply(variables, nchw, method="decode").sample,
        "deterministic": lambda: (
            vae.apply(variables, nchw, True, method=vae.decode, rngs={}, mutable=False).sample
        ),
        "frozen": lambda: vae.apply(FrozenDict(variables), nchw, method=vae.decode).sample,
        "tuple": lambda: vae.apply(variables, nchw, return_dict=False, method=vae.decode)[0],
    }[form]()
    np.testing.assert_array_equal(result, decoded(tiny, z))


def test_data_formats(tiny):
    vae, params = tiny
    variables = {"params": params}
    # NCHW whose width is the number of channels: what fits NCHW is NCHW.
    z = latent(SHORT, (4, 4), n=2)
    nchw = z.transpose(0, 3, 1, 2)
    result = vae.apply(variables, nchw, method=vae.decode).sample
    np.testing.assert_array_equal(result, decoded(tiny, z))
    last = FlaxAutoencoderTiny(vae.architecture, data_format="NHWC")
    np.testing.assert_array_equal(last.apply(variables, z, method=vae.decode).sample, result)
    # NHWC that cannot be NCHW.
    z = latent(SHORT, (5, 3))
    result = vae.apply(variables, z, method=vae.decode).sample
    np.testing.assert_array_equal(result, decoded(tiny, z))
    with pytest.raises(ValueError, match="data_format must be"):
        FlaxAutoencoderTiny(vae.architecture, data_format="CHWN")


def test_encode(tiny):
    vae, params = tiny
    x = image(SHORT, (24, 16), n=2)
    variables = {"params": params}
    result = vae.apply(variables, x.transpose(0, 3, 1, 2), method=vae.encode).latent_dist
    expected = AutoencoderTiny(params, vae.architecture).encode(x).latents
    np.testing.assert_array_equal(result.sample(jax.random.key(0)), expected)
    np.testing.assert_array_equal(result.mode(), expected)
    compiled = jax.jit(lambda p, x: vae.apply({"params": p}, x, method=vae.encode))
    np.testing.assert_allclose(
        compiled(params, x.transpose(0, 3, 1, 2))[0].mean, expected, atol=FUSION
    )


def test_dtypes(tiny):
    vae, params = tiny
    z = jnp.asarray(latent(SHORT, (5, 3)).transpose(0, 3, 1, 2), jnp.bfloat16)
    assert vae.apply({"params": params}, z, method=vae.decode).sample.dtype == jnp.bfloat16
    wide = FlaxAutoencoderTiny(vae.architecture, dtype=jnp.float32)
    assert wide.apply({"params": params}, z, method=vae.decode).sample.dtype == jnp.float32


@pytest.mark.parametrize("name", VARIANTS)
def test_what_pipelines_read(name):
    vae = FlaxAutoencoderTiny(VARIANTS[name])
    for read in (vae.config.__getitem__, lambda key: getattr(vae.config, key), vae.__getattr__):
        assert (read("scaling_factor"), read("shift_factor")) == (1.0, 0.0)
        assert read("latent_channels") == VARIANTS[name].latent_channels
        assert 2 ** (len(read("block_out_channels")) - 1) == VARIANTS[name].spatial_factor
        assert (read("in_channels"), read("out_channels")) == (3, 3)
    assert {vae: 1}[vae] == 1
    with pytest.raises(AttributeError, match="quant_conv"):
        vae.quant_conv  # noqa: B018


def test_init_weights(tiny):
    vae, _ = tiny
    shapes = vae.init_weights(jax.random.key(0), eval_only=True)
    params = vae.init_weights(rng=jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    assert isinstance(jax.tree.leaves(shapes)[0], jax.ShapeDtypeStruct)


def test_wrong_calls_say_what_to_do(tiny):
    vae, params = tiny
    z = latent(SHORT, (5, 3))
    with pytest.raises(ValueError, match=r"vae\.apply"):
        vae.decode(z)
    with pytest.raises(ValueError, match="method must be"):
        vae.apply({"params": params}, z)
    with pytest.raises(ValueError, match="did you mean taesd3 or taef1"):
        vae.apply({"params": params}, np.zeros((1, 16, 8, 8), "f"), method=vae.decode)
    with pytest.raises(ValueError, match="rank 4"):
        vae.apply({"params": params}, z[0], method=vae.decode)


def test_absent_settings_are_absent():
    vae = FlaxAutoencoderTiny(SHORT)
    assert getattr(vae.config, "use_quant_conv", None) is None
    assert not hasattr(vae, "use_quant_conv")
    assert copy.deepcopy(vae).config == vae.config
