"""replace_vae with stand-ins for MaxDiffusion's pipelines, which call a VAE as theirs do."""

import functools
import json
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx, struct
from flax.core import FrozenDict, freeze
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from models import (
    ONE_BLOCK,
    ROUNDING,
    SHORT,
    image,
    latent,
    random_model,
    with_thumbnails,
    write_pair,
)

from taesd_jax import VARIANTS, AutoencoderTiny
from taesd_jax.errors import CheckpointError
from taesd_jax.pipelines import FlaxAutoencoderTiny
from taesd_jax.pipelines.maxdiffusion import replace_vae, with_base

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
CONFIG = SHORT.replace(raw_latent_scale=0.18215, raw_latent_shift=0.0)
RULES = (("batch", ("data", "fsdp")), ("conv_out", "fsdp"))
BATCH = PartitionSpec(("data", "fsdp"))


class State(struct.PyTreeNode):
    """What MaxDiffusion's InferenceState holds."""

    apply_fn: object = struct.field(pytree_node=False)
    params: object = struct.field(pytree_node=True)


class FullVAE:
    """What replace_vae sees of FlaxAutoencoderKL."""

    dtype = jnp.float32

    def __init__(self, scaling_factor=0.18215, latent_channels=4):
        self.config = types.SimpleNamespace(
            scaling_factor=scaling_factor,
            latent_channels=latent_channels,
            block_out_channels=(128, 256, 512, 512),
        )


class StableDiffusion:
    def __init__(self, vae=None):
        self.vae = vae or FullVAE()

    def decode(self, latents, state):
        latents = 1 / self.vae.config.scaling_factor * latents
        image = self.vae.apply({"params": state.params}, latents, method=self.vae.decode).sample
        return image.transpose(0, 2, 3, 1)

    def encode(self, images, key, state):
        output = self.vae.apply(
            {"params": state.params}, images, deterministic=True, method=self.vae.encode
        )
        latents = jnp.transpose(output.latent_dist.sample(key), (0, 3, 1, 2))
        return latents * self.vae.config.scaling_factor


class Flux(StableDiffusion):
    flux = "the transformer"

    def __call__(self, latents, vae_params):
        latents = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        variables = {"params": vae_params["params"]}
        return self.vae.apply(
            variables, latents, deterministic=True, method=self.vae.decode
        ).sample.transpose(0, 2, 3, 1)

    def encode(self, images, state):
        output = self.vae.apply(
            {"params": state.params}, images, deterministic=True, method=self.vae.encode
        )
        latents = output.latent_dist.mode() - self.vae.config.shift_factor
        return self.vae.config.scaling_factor * latents


class ZImage:
    def __init__(self, mesh):
        self.vae = FullVAE()
        self.vae_params = full_params(NamedSharding(mesh, PartitionSpec("fsdp")))
        self.vae_shift_factor = 0.1159
        self._jitted_decoder = None

    def __call__(self, latents):
        if self._jitted_decoder is None:

            def decode(params, z):
                z = z / self.vae.config.scaling_factor + self.vae_shift_factor
                return self.vae.apply(
                    {"params": params}, z, deterministic=True, method=self.vae.decode
                ).sample

            self._jitted_decoder = jax.jit(decode)
        return self._jitted_decoder(self.vae_params, latents).transpose(0, 2, 3, 1)


def full_params(sharding=None, dtype=jnp.float32):
    return {"decoder": {"conv_in": {"kernel": jax.device_put(jnp.zeros((8, 8), dtype), sharding)}}}


def make_state(model, mesh, params):
    """Make a state with shardings from shapes alone, and its values by params."""

    def make(*, eval_only, params=None):
        init_weights = functools.partial(model.init_weights, rng=jax.random.key(0))
        return State(apply_fn=model.apply, params=params or init_weights(eval_only=eval_only))

    abstract = jax.eval_shape(functools.partial(make, eval_only=True))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(abstract), mesh, RULES)
    shapes = jax.jit(functools.partial(make, eval_only=True), out_shardings=shardings).eval_shape()
    filled = functools.partial(make, eval_only=False, params=params)
    return jax.jit(filled, out_shardings=shardings)(), shardings, shapes


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))


@pytest.fixture(scope="module")
def vae():
    params, config = random_model(CONFIG)
    return AutoencoderTiny(with_thumbnails(params, config), config)


def only(vae, *components):
    return AutoencoderTiny({name: vae.params[name] for name in components}, vae.config)


def shapes_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    "components",
    [
        pytest.param(("encoder", "decoder"), marks=pytest.mark.slow),
        pytest.param(("encoder",), marks=pytest.mark.slow),
        ("decoder",),
    ],
)
def test_states_are_made_saved_and_restored(vae, mesh, components, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    pipeline, params = StableDiffusion(), {"vae": full_params(), "unet": {}}
    # Thumbnails, which a whole model may have, are no part of the tree.
    replace_vae(pipeline, params, vae if len(components) == 2 else only(vae, *components))
    assert params["vae"].keys() == set(components)
    state, shardings, shapes = make_state(pipeline.vae, mesh, params["vae"])
    jax.tree.map(np.testing.assert_array_equal, state.params, params["vae"])
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(state)} == {mesh}

    with ocp.CheckpointManager(
        tmp_path, item_names=("vae_config", "vae_state", "vae_tree")
    ) as manager:
        items = {
            "vae_config": ocp.args.JsonSave(json.loads(pipeline.vae.to_json_string())),
            "vae_state": ocp.args.StandardSave(state),
            "vae_tree": ocp.args.PyTreeSave(state),
        }
        manager.save(0, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
        items = {
            "vae_config": ocp.args.JsonRestore(),
            "vae_state": ocp.args.StandardRestore(shapes),
            "vae_tree": ocp.args.PyTreeRestore(
                item=shapes, restore_args=ocp.checkpoint_utils.construct_restore_args(shapes)
            ),
        }
        restored = manager.restore(0, args=ocp.args.Composite(**items))
    # FLUX.1's script restores the params alone.
    params_alone = ocp.PyTreeCheckpointer().restore(
        tmp_path / "0" / "vae_tree",
        item={"params": shapes.params},
        transforms={},
        restore_args={"params": ocp.checkpoint_utils.construct_restore_args(shapes.params)},
    )
    for tree in (restored["vae_state"].params, restored["vae_tree"].params, params_alone["params"]):
        jax.tree.map(np.testing.assert_array_equal, tree, params["vae"])
    again = FlaxAutoencoderTiny.from_config(
        restored["vae_config"],
        dtype=jnp.float32,
        weights_dtype=jnp.float32,
        data_format="NCHW",
        from_pt=True,
    )
    assert again.data_format == "NCHW"
    assert shapes_of(again.init_weights(jax.random.key(0), eval_only=True)) == shapes_of(
        params["vae"]
    )

    if "decoder" in components:
        z = latent(CONFIG, (4, 6), n=8)
        decode = jax.jit(pipeline.decode, in_shardings=(NamedSharding(mesh, BATCH), shardings))
        images = decode(nchw(z), restored["vae_state"])
        np.testing.assert_allclose(images, vae.decode(z).sample, atol=ROUNDING, rtol=0)
    else:
        x = image(CONFIG, (16, 24), n=8)
        encode = jax.jit(
            pipeline.encode, in_shardings=(NamedSharding(mesh, BATCH), None, shardings)
        )
        latents = encode(nchw(x), jax.random.key(0), restored["vae_state"])
        np.testing.assert_allclose(latents, nchw(vae.encode(x).latents), atol=ROUNDING, rtol=0)


@pytest.mark.slow
def test_a_state_of_random_weights(vae, mesh):
    """FLUX.1's trainer and scripts pass no params where a checkpoint will fill them."""
    decoder = only(vae, "decoder")
    module, params = FlaxAutoencoderTiny.from_model(decoder, weights_dtype=jnp.bfloat16)
    state, _, _ = make_state(module, mesh, None)
    assert shapes_of(state.params) == shapes_of(params)


def test_flux_1(vae, mesh):
    pipeline, params = Flux(), {"flux_vae": full_params(), "flux_transformer_params": {}}
    replace_vae(pipeline, params, vae)
    assert params.keys() == {"flux_vae", "flux_transformer_params"}
    state, _, _ = make_state(pipeline.vae, mesh, params["flux_vae"])
    z = latent(CONFIG, (4, 6), n=8)
    images = pipeline(jax.device_put(nchw(z), NamedSharding(mesh, BATCH)), {"params": state.params})
    np.testing.assert_allclose(images, vae.decode(z).sample, atol=ROUNDING, rtol=0)
    x = np.float16(image(CONFIG, (16, 24), n=8))
    expected = vae.encode(np.float32(x)).latents
    np.testing.assert_allclose(pipeline.encode(nchw(x), state), expected, atol=ROUNDING, rtol=0)


def test_params_lie_on_the_mesh_of_a_pipeline_that_has_none_yet(vae, mesh):
    pipeline, tiny = Flux(), {}
    pipeline.mesh = mesh
    replace_vae(pipeline, tiny, vae)
    for leaf in jax.tree.leaves(tiny["flux_vae"]):
        assert leaf.sharding == NamedSharding(mesh, PartitionSpec())


def test_z_image(vae, mesh):
    pipeline = ZImage(mesh)
    pipeline._jitted_decoder = lambda params, latents: latents  # of the full VAE
    replace_vae(pipeline, None, vae)
    z = latent(CONFIG, (4, 6), n=2)
    np.testing.assert_allclose(pipeline(nchw(z)), vae.decode(z).sample, atol=ROUNDING, rtol=0)
    for leaf in jax.tree.leaves(pipeline.vae_params):
        assert leaf.sharding == NamedSharding(mesh, PartitionSpec())


def test_flux_2_klein(vae, mesh):
    """Its script makes shapes by `init`, and puts the params onto the mesh by their shardings."""
    module, loaded = FlaxAutoencoderTiny.from_model(vae, dtype=jnp.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((8, 3, 512, 512))))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(shapes), mesh, RULES)
    shardings, params = freeze(shardings["params"]), freeze(loaded)
    params = jax.tree.map(
        lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]),
        params,
        shardings,
    )

    @functools.partial(jax.jit, donate_argnums=(1,))
    def decode(params, latents):
        return module.apply({"params": params}, latents=latents, method=module.decode)

    z = latent(CONFIG, (4, 6), n=2)
    images = decode(params, jnp.asarray(nchw(z))).sample.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, vae.decode(z).sample, atol=ROUNDING, rtol=0)


def test_the_arguments_of_their_own_vae_are_taken(tmp_path):
    path = write_pair(tmp_path, config=SHORT)
    module, params = FlaxAutoencoderTiny.from_pretrained(
        path, from_pt=True, use_safetensors=True, dtype="bfloat16", weights_dtype="bfloat16"
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    z = jnp.asarray(nchw(latent(SHORT, (4, 6))))
    assert module.apply({"params": params}, z, method=module.decode).sample.dtype == jnp.bfloat16
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(module.init, rngs, z)
    assert shapes_of(variables) == shapes_of({"params": params})


def test_dtypes_are_those_of_the_replaced_vae(vae, mesh):
    pipeline, params = StableDiffusion(), {"vae": full_params(dtype=jnp.bfloat16)}
    pipeline.vae.dtype = jnp.float16
    replace_vae(pipeline, params, vae)
    assert pipeline.vae.dtype == jnp.float16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    asked = AutoencoderTiny(vae.params, vae.config, dtype=jnp.bfloat16)
    replace_vae(pipeline, params, asked)
    assert pipeline.vae.dtype == jnp.bfloat16
    replace_vae(pipeline, params, asked, dtype=jnp.float32, weights_dtype=jnp.float32)
    assert pipeline.vae.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("components", [("encoder", "decoder"), ("decoder",)])
def test_modules_are_saved_and_opened(vae, components, tmp_path):
    module, params = FlaxAutoencoderTiny.from_model(only(vae, *components))
    module.save_pretrained(tmp_path / "vae", params=params)
    again, loaded = FlaxAutoencoderTiny.from_pretrained(tmp_path / "vae")
    assert again.config == module.config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_half_a_model_is_not_saved_behind_a_whole_one(vae, tmp_path):
    module, params = FlaxAutoencoderTiny.from_model(vae)
    module.save_pretrained(tmp_path, params)
    module, params = FlaxAutoencoderTiny.from_model(only(vae, "decoder"))
    with pytest.raises(CheckpointError, match="remove it first"):
        module.save_pretrained(tmp_path, params)


def test_what_cannot_be_replaced_is_refused(vae):
    params = {"vae": full_params()}
    with pytest.raises(ValueError, match=r"scale 0.13025.* use taesdxl$"):
        replace_vae(StableDiffusion(FullVAE(scaling_factor=0.13025)), params, vae)
    with pytest.raises(ValueError, match=r"16 channels.* has 4.* use taef1$"):
        replace_vae(Flux(FullVAE(0.3611, 16)), params, vae)
    with pytest.raises(TypeError, match="FrozenDict"):
        replace_vae(StableDiffusion(), FrozenDict(params), vae)
    with pytest.raises(TypeError, match="params must be the dict"):
        replace_vae(StableDiffusion(), None, vae)
    with pytest.raises(TypeError, match="must have a vae, got int"):
        replace_vae(1, params, vae)
    with pytest.raises(TypeError, match="NNX"):
        replace_vae(StableDiffusion(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), params, vae)
    klein = StableDiffusion()
    klein._jitted_vae_decode = None
    with pytest.raises(TypeError, match=r"docs/pipelines\.md"):
        replace_vae(klein, params, vae)
    assert params["vae"].keys() == {"decoder"}
    assert jax.tree.leaves(params)[0].shape == (8, 8)


def test_another_tiny_model_of_the_same_latents_may_follow(vae):
    pipeline, params = StableDiffusion(), {"vae": full_params()}
    replace_vae(pipeline, params, vae)
    replace_vae(pipeline, params, vae)
    other = AutoencoderTiny(vae.params, CONFIG.replace(raw_latent_scale=0.13025))
    with pytest.raises(ValueError, match=r"scale 0.18215"):
        replace_vae(pipeline, params, other)


def test_a_pipeline_of_a_checkpoint_made_with_a_tiny_model(vae):
    """MaxDiffusion builds its own VAE of the config there, and drops what that does not know."""
    saved = json.loads(FlaxAutoencoderTiny.from_model(vae)[0].to_json_string())
    full = FullVAE()
    full.config = types.SimpleNamespace(
        **{name: saved[name] for name in vars(full.config)},
    )
    pipeline, params = StableDiffusion(full), {}
    replace_vae(pipeline, params, vae)
    assert params["vae"].keys() == {"encoder", "decoder"}


def test_a_module_is_an_instance_of_the_base_that_a_library_checks(vae):
    base = type("FlaxModelMixin", (), {"init_weights": None, "to_bf16": lambda *_: "theirs"})
    module, params = FlaxAutoencoderTiny.from_model(vae)
    both = with_base(module, base)
    assert isinstance(both, base)
    assert isinstance(both, FlaxAutoencoderTiny)
    assert both.to_bf16({}) == "theirs"
    assert both.init_weights(jax.random.key(0), eval_only=True).keys() == params.keys()


def test_the_lines_of_the_page_run(mesh, monkeypatch):
    def load(name, **_):
        return AutoencoderTiny(*random_model(VARIANTS[name].replace(**ONE_BLOCK)))

    monkeypatch.setattr(AutoencoderTiny, "from_pretrained", staticmethod(load))
    z_image = ZImage(mesh)
    z_image.vae = FullVAE(0.3611, 16)
    pipelines = {
        "MaxDiffusion": StableDiffusion(),
        "Stable Diffusion and SDXL": StableDiffusion(),
        "FLUX.1": Flux(FullVAE(0.3611, 16)),
        "FLUX.2 klein": None,
        "Z-Image": z_image,
    }
    names = {"config": types.SimpleNamespace(weights_dtype="bfloat16"), "jnp": jnp}
    sections = re.split(r"^##+ (.+)\n", PAGE.read_text(), flags=re.M)[1:]
    run = dict.fromkeys(pipelines, 0)
    for heading, text in zip(sections[::2], sections[1::2], strict=True):
        for snippet in re.findall(r"^```py\n(.*?)^```$", text, re.M | re.S):
            if heading in pipelines:
                names |= {"pipeline": pipelines[heading], "params": {}}
                exec(snippet, names)
                run[heading] += 1
    assert run == dict(zip(pipelines, (1, 1, 3, 2, 1), strict=True))
    assert {type(p.vae).__name__ for p in pipelines.values() if p} == {"FlaxAutoencoderKL"}
    assert z_image.vae_shift_factor == 0
    assert names["vae_state"]["params"].keys() == {"encoder", "decoder"}
    assert names["vae_params"] is names["tiny_params"]
