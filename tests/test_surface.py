"""What pipelines written for diffusers' AutoencoderTiny do to a VAE."""

import copy
import json
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from models import SHORT, image, latent, random_model

from taesd_jax import AutoencoderTiny
from taesd_jax.surface import INSTEAD

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"


@pytest.fixture
def vae():
    params, config = random_model(SHORT)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)


def test_the_config_is_read_in_every_way(vae):
    config = vae.config
    assert config.latent_channels == config["latent_channels"] == config.get("latent_channels") == 4
    assert config.get("norm_num_groups") is config.get("norm_num_groups", None) is None
    assert "scaling_factor" in config
    assert "norm_num_groups" not in config
    assert getattr(config, "shift_factor", None) == 0.0
    assert not hasattr(config, "latents_mean")
    assert 2 ** (len(config.block_out_channels) - 1) == config.spatial_factor == 8
    assert config["block_out_channels"] == config.decoder_block_out_channels
    assert dict(config) == {**config} == {name: config[name] for name in config}
    assert json.loads(json.dumps(dict(config)))["act_fn"] == "relu"
    with pytest.raises(KeyError, match="norm_num_groups"):
        config["norm_num_groups"]


def test_outputs_are_read_in_every_way(vae):
    z = latent(SHORT, (4, 6))
    output = vae.decode(z, generator=jax.random.key(0))
    for sample in (output["sample"], output[0], *output.to_tuple(), *output, output[:1][0]):
        assert sample is output.sample
    assert dict(output).keys() == {"sample"}
    assert vae.decode(z, return_dict=False, generator=None)[0].shape == output.sample.shape
    encoded = vae.encode(image(SHORT, (16, 24)))
    assert encoded["latents"] is encoded[0] is encoded.latents
    assert not hasattr(encoded, "latent_dist")
    with pytest.raises(KeyError, match="latents"):
        output["latents"]
    assert [type(copy.copy(x)) for x in (output, encoded)] == [type(output), type(encoded)]
    assert type(jax.jit(lambda x: x)(output)) is type(pickle.loads(pickle.dumps(output)))


def test_to_changes_the_dtype_of_params_and_results(vae):
    z = latent(SHORT, (4, 6))
    assert vae.dtype is None
    assert vae.eval().requires_grad_(False).to(jnp.bfloat16) is vae
    assert {p.dtype for p in jax.tree.leaves(vae.params)} == {jnp.dtype("bfloat16")}
    assert vae.dtype == jnp.bfloat16
    assert vae.decode(z).sample.dtype == jnp.bfloat16
    assert vae.to("float32").decode(z).sample.dtype == jnp.float32


def test_to_moves_params(vae):
    device = jax.devices()[3]
    vae.to(device)
    assert {p.device for p in jax.tree.leaves(vae.params)} == {device}
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())
    vae.to(device=sharding, dtype=jnp.float16)
    assert {p.sharding.mesh for p in jax.tree.leaves(vae.params)} == {mesh}
    assert vae.dtype == jnp.float16
    with pytest.raises(TypeError, match=r"jax\.devices\(\)"):
        vae.to("cuda")
    for wrong in ({"device": "cuda"}, {"dtype": jnp.int32}):
        with pytest.raises(TypeError, match=r"jax\.devices\(\)"):
            vae.to(**wrong)


@pytest.mark.parametrize("name", ["use_tiling", "tile_latent_min_size", "encoder"])
def test_what_would_have_no_effect_cannot_be_set(vae, name):
    with pytest.raises(AttributeError, match=rf"no attribute '{name}'; instead: "):
        setattr(vae, name, None)


def test_to_takes_device_and_dtype_in_any_order(vae):
    device = jax.devices()[1]
    for targets in ((device, jnp.bfloat16), (jnp.bfloat16, device)):
        moved = jax.tree.leaves(copy.copy(vae).to(*targets).params)
        assert all(p.dtype == jnp.bfloat16 and p.devices() == {device} for p in moved)


def test_other_names_say_what_to_use(vae):
    with pytest.raises(AttributeError, match=r"no attribute 'cuda'; instead: vae\.to"):
        vae.cuda()
    with pytest.raises(AttributeError, match="no attribute 'decod'$"):
        vae.decod  # noqa: B018
    assert not hasattr(vae, "state_dict")
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.decode(np.zeros((1, 2, 2, 4), "f")).sample.shape[1:3], 16)


def public_names():
    """Return diffusers' public names, of the class and of a model."""
    diffusers = pytest.importorskip("diffusers", reason="the oracles run on Python 3.11")
    names = {*dir(diffusers.AutoencoderTiny), *dir(diffusers.AutoencoderTiny())}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.oracle
def test_every_name_of_diffusers_is_here_or_says_what_to_use(vae):
    own = {name for name in dir(vae) if not name.startswith("_")}
    names = public_names()
    assert names - own == INSTEAD.keys()
    # The page lists both.
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", PAGE.read_text(), re.M)
    listed = {name: text for names_, text in rows for name in re.findall(r"`([\w.]+)", names_)}
    assert names <= listed.keys()
    assert {name: listed[name].replace("`", "") for name in INSTEAD} == dict(INSTEAD)
