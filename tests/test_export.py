"""The model and the pure functions in other people's jit, vmap, scan, grad, export and caches."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from models import ROUNDING, SHORT, image, latent, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, Strips


@pytest.mark.process
@pytest.mark.parametrize("pool", [0, 16], ids=["plain", "pooled"])
def test_an_exported_decoder_runs_without_this_library(pool, tmp_path):
    params, config = random_model(SHORT.replace(pool_channels=pool))
    n, h, w = export.symbolic_shape("n, h, w")
    run = jax.jit(lambda params, z: taesd_jax.decode(params, z, config=config))
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    exported = export.export(run)(shapes, jax.ShapeDtypeStruct((n, h, w, 4), jnp.float32))
    (tmp_path / "decoder.bin").write_bytes(exported.serialize())
    leaves = jax.tree.leaves(params)
    np.savez(tmp_path / "params.npz", *leaves)
    code = """
import sys
import jax, numpy as np
sys.modules["taesd_jax"] = sys.modules["flax"] = None
folder = sys.argv[1]
decode = jax.export.deserialize(open(f"{folder}/decoder.bin", "rb").read())
file = np.load(f"{folder}/params.npz")
leaves = [file[name] for name in file.files]
params, _ = jax.tree.unflatten(decode.in_tree, [*leaves, np.zeros(1)])[0]
for i, shape in enumerate([(1, 3, 2, 4), (2, 5, 4, 4)]):
    z = np.random.default_rng(0).standard_normal(shape).astype("f")
    np.save(f"{folder}/{i}.npy", decode.call(params, z))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for i, size in enumerate([(3, 2), (5, 4)]):
        want = taesd_jax.decode(params, latent(config, size, n=i + 1), config=config)
        np.testing.assert_allclose(np.load(tmp_path / f"{i}.npy"), want, atol=ROUNDING, rtol=0)


@pytest.mark.process
def test_the_persistent_cache_keeps_programs(tmp_path):
    code = """
import jax, jax.numpy as jnp, taesd_jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
config = taesd_jax.AutoencoderTinyConfig(
    encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
)
shapes = jax.eval_shape(lambda: taesd_jax.init(jax.random.key(0), config=config))
params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
taesd_jax.decode(params, jnp.zeros((1, 2, 2, 4)), config=config)
print(sum(name == "/jax/compilation_cache/cache_hits" for name in hits))
"""
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    hits = [
        int(
            subprocess.run(
                [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    ]
    assert hits[1] > hits[0]


@pytest.fixture(scope="module")
def vae():
    return AutoencoderTiny(*random_model(SHORT))


def test_the_model_composes_with_jit_vmap_scan_and_grad(vae):
    z = jnp.asarray(latent(SHORT, (3, 2), n=2))
    want = np.asarray(vae.decode(z).sample)
    run = jax.jit(lambda vae, z: vae.decode(z).sample)
    np.testing.assert_allclose(run(vae, z), want, atol=ROUNDING, rtol=0)
    mapped = jax.vmap(lambda vae, z: vae.decode(z[None]).sample[0], in_axes=(None, 0))(vae, z)
    np.testing.assert_allclose(mapped, want, atol=ROUNDING, rtol=0)
    _, scanned = jax.lax.scan(lambda vae, z: (vae, vae.decode(z[None]).sample[0]), vae, z)
    np.testing.assert_allclose(scanned, want, atol=ROUNDING, rtol=0)

    def loss(vae, z):
        return (vae.decode(z).sample ** 2).mean()

    by_model, by_latent = jax.grad(loss, argnums=(0, 1))(vae, z)
    assert isinstance(by_model, AutoencoderTiny)
    pure = jax.grad(lambda p: (taesd_jax.decode(p, z, config=vae.config) ** 2).mean())(vae.params)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6, rtol=1e-3)
    jax.tree.map(close, by_model.params, pure)
    assert np.abs(by_latent).max() > 0


def test_two_models_stack_under_vmap(vae):
    other = AutoencoderTiny(*random_model(SHORT, seed=1))
    z = jnp.asarray(latent(SHORT, (3, 2)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), vae, other)
    images = jax.vmap(lambda vae: vae.decode(z).sample)(stacked)
    for picture, model in zip(images, (vae, other), strict=True):
        np.testing.assert_allclose(picture, model.decode(z).sample, atol=ROUNDING, rtol=0)


def test_a_function_of_the_model_can_be_exported(vae):
    n, h, w = export.symbolic_shape("n, h, w")
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), vae)
    run = jax.jit(lambda vae, z: vae.decode(z).sample)
    exported = export.export(run)(shapes, jax.ShapeDtypeStruct((n, h, w, 4), jnp.float32))
    again = export.deserialize(exported.serialize())
    z = latent(SHORT, (3, 2), n=2)
    np.testing.assert_allclose(again.call(vae, z), vae.decode(z).sample, atol=ROUNDING, rtol=0)


def test_an_export_runs_by_the_rules_of_its_platform(vae):
    z = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
    assert type(vae.strategy("decoder", z).strategy) is Strips  # on this machine
    run = jax.jit(lambda vae, z: vae.decode(z).sample)

    def loops(platform):
        return "stablehlo.while" in export.export(run, platforms=[platform])(vae, z).mlir_module()

    assert [loops(platform) for platform in ("cpu", "tpu", "cuda")] == [True, False, False]
    both = export.export(run, platforms=["cpu", "tpu"])(vae, z)
    again = export.deserialize(both.serialize())
    z = latent(SHORT, (64, 64))
    np.testing.assert_allclose(again.call(vae, z), vae.decode(z).sample, atol=ROUNDING, rtol=0)
    # A budget is the user's, on every platform.
    small = AutoencoderTiny(vae.params, vae.config, memory_budget=0)
    assert "stablehlo.while" in export.export(run, platforms=["tpu"])(small, z).mlir_module()


def test_an_array_may_be_changed_when_the_call_returns(vae):
    first, z = latent(SHORT, (3, 2)), latent(SHORT, (3, 2))
    images = []
    for i in range(4):
        z[...] = first * i
        images.append(vae.decode(z).sample)
        z[...] = np.nan
    for i, got in enumerate(images):
        want = vae.decode(jnp.asarray(first * i)).sample
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_compiled_ahead_of_time(vae, component):
    x = latent(SHORT, (3, 2)) if component == "decoder" else image(SHORT, (24, 16))
    compiled = vae.compile(x.shape, component=component)
    want = vae.decode(x).sample if component == "decoder" else vae.encode(x).latents
    np.testing.assert_allclose(compiled(vae, x), want, atol=ROUNDING, rtol=0)
    assert compiled.program.memory_analysis().temp_size_in_bytes > 0
    with pytest.raises(TypeError, match="called with float32"):
        compiled(vae, np.concatenate([x, x]))


def test_what_cannot_be_compiled_is_refused(vae):
    with pytest.raises(ValueError, match="component must be one of"):
        vae.compile((1, 2, 2, 4), component="both")
    with pytest.raises(ValueError, match="latent must be"):
        vae.compile((1, 2, 2))
    with pytest.raises(TypeError, match="dtype must be float32"):
        vae.compile((1, 2, 2, 4), dtype=jnp.int8)
