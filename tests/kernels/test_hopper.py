"""The kernels for Hopper GPUs, as far as they can be seen without one: where they are chosen, and
that they lower. tests/tools/gpu.py checks what they compute."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.sharding import AxisType

from taesd_jax import VARIANTS, Full
from taesd_jax.kernels import XLA, ConvSpec, Engine, count_multiprocessors
from taesd_jax.kernels.choice import is_covered
from taesd_jax.model.functional import Computation, Params, abstract_params, bind
from taesd_jax.strategies import run as run_module
from taesd_jax.strategies.run import _run, run
from taesd_jax.strategies.sharding import replicate, shard_images

CAN_LOWER = pytest.mark.skipif(jax.__version_info__ < (0, 11, 2), reason="Pallas is older")
CALL = "custom_call @mosaic_gpu_v2"
ENGINE = Engine(multiprocessors=132)
ON = ConvSpec(engine=ENGINE)


def gpu(capability="9.0", count=132):
    return types.SimpleNamespace(
        platform="gpu", compute_capability=capability, core_count=count, device_kind="a GPU"
    )


CPU = types.SimpleNamespace(platform="cpu")


@CAN_LOWER
@pytest.mark.parametrize(
    ("devices", "count"),
    [
        ([CPU], 0),
        ([gpu()], 132),
        ([gpu(count=114)], 114),
        ([CPU, gpu()], 132),
        ([gpu("8.0")], 0),
        ([gpu("10.0")], 0),
        ([gpu(), gpu("8.0")], 0),
        ([gpu(), gpu()], 132),
    ],
)
def test_devices(devices, count, monkeypatch):
    monkeypatch.delenv("TAESD_JAX_KERNELS", raising=False)
    assert count_multiprocessors(devices=devices) == count
    assert count_multiprocessors(False, devices=devices) == 0
    assert count_multiprocessors(True, devices=devices) == (count or 132)
    monkeypatch.setenv("TAESD_JAX_KERNELS", "0")
    assert count_multiprocessors(devices=devices) == 0


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.bfloat16)


UP, IMAGE, RELU = (
    ConvSpec(engine=ENGINE, **options)
    for options in ({"upsample": True}, {"activation": "to_signed"}, {"activation": "relu"})
)


@pytest.mark.parametrize(
    ("x", "kernel", "spec", "has_skip", "covered"),
    [
        ((1, 64, 64, 64), (3, 3, 64, 64), ON, False, True),
        ((1, 64, 64, 64), (3, 3, 64, 64), ConvSpec(), False, False),
        ((3, 34, 72, 64), (3, 3, 64, 64), RELU, True, True),
        ((3, 35, 72, 64), (3, 3, 64, 64), RELU, True, False),
        ((3, 34, 76, 64), (3, 3, 64, 64), RELU, True, False),
        ((1, 64, 64, 56), (3, 3, 56, 56), ON, False, False),
        ((1, 64, 64, 64), (3, 3, 64, 56), ON, False, False),
        ((1, 64, 64, 64), (1, 1, 64, 64), ON, False, False),
        ((1, 64, 64, 64), (3, 3, 64, 64), ConvSpec(stride=2, engine=ENGINE), False, False),
        (
            (1, 64, 64, 64),
            (3, 3, 64, 64),
            ConvSpec(padding=((0, 0), (1, 1)), engine=ENGINE),
            False,
            False,
        ),
        (
            (1, 64, 64, 64),
            (3, 3, 64, 64),
            ConvSpec(activation="silu", engine=ENGINE),
            False,
            False,
        ),
        ((1, 33, 64, 64), (3, 3, 64, 64), UP, False, True),
        ((1, 33, 64, 64), (3, 3, 64, 64), UP, True, False),
        ((1, 33, 64, 64), (3, 3, 64, 3), IMAGE, False, True),
        ((1, 33, 72, 64), (3, 3, 64, 3), IMAGE, False, False),
        ((1, 33, 64, 64), (3, 3, 64, 12), IMAGE, False, False),
    ],
)
def test_shapes(x, kernel, spec, has_skip, covered):
    assert is_covered(shape(*x), shape(*kernel), spec, has_skip=has_skip) == covered


def decoder(variant="taesd", *, engine=ENGINE):
    config = VARIANTS[variant]
    params = jax.tree.map(lambda p: shape(*p.shape), abstract_params("decoder", config))

    def run(params: Params, z: jax.Array) -> jax.Array:
        return bind(params, "decoder", config, engine)(z)

    return run, params, shape(2, 16, 16, config.latent_channels)


def lower(run, *shapes, platform="cuda"):
    return jax.jit(run).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def count_kernels(run, *shapes, platform="cuda"):
    return lower(run, *shapes, platform=platform).count(CALL)


@CAN_LOWER
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("form", ["conv", "skip", "upsample", "to image"])
@pytest.mark.parametrize("size", [(1, 32, 32), (3, 34, 72), (1, 2, 1024)])
def test_every_form_lowers(form, size, dtype):
    from taesd_jax.kernels import hopper

    x, skip = (jax.ShapeDtypeStruct((*size, 64), dtype) for _ in range(2))
    kernel, to_image = (jax.ShapeDtypeStruct((3, 3, 64, c), dtype) for c in (64, 3))
    bias = jax.ShapeDtypeStruct((64,), dtype)
    if form == "to image" and size[2] % 32:
        pytest.skip("not covered")
    run, shapes = {
        "conv": (lambda x, k, b: hopper.conv(x, k, b, multiprocessors=132), (x, kernel, bias)),
        "skip": (
            lambda x, k, b, s: hopper.conv(x, k, b, s, relu=True, multiprocessors=132),
            (x, kernel, bias, skip),
        ),
        "upsample": (lambda x, k: hopper.upsample_conv(x, k, multiprocessors=132), (x, kernel)),
        "to image": (lambda x, k: hopper.conv_to_image(x, k, multiprocessors=132), (x, to_image)),
    }[form]
    assert count_kernels(run, *shapes) == 1


@CAN_LOWER
def test_a_decoder_is_twelve_kernels_and_one_convolution():
    run, params, z = decoder()
    text = lower(run, params, z)
    # At four sizes with and without a skip, three enlargements, and the image: each once.
    assert text.count(CALL) == 12
    assert text.count("stablehlo.convolution") == 1
    assert count_kernels(run, params, z, platform="cpu") == 0
    assert count_kernels(decoder(engine=XLA)[0], params, z) == 0


@CAN_LOWER
def test_transformations_keep_the_kernels():
    run, params, z = decoder()
    for transformed in (
        jax.vmap(lambda params, z: run(params, z[None])[0], (None, 0)),
        lambda params, z: jax.lax.map(lambda z: run(params, z[None])[0], z),
        lambda params, z: jax.checkpoint(run)(params, z),
    ):
        assert count_kernels(transformed, params, z) == 12


@CAN_LOWER
def test_gradients_never_meet_them():
    run, params, z = decoder()

    def loss(params, z):
        return run(params, z).astype(jnp.float32).mean()

    assert count_kernels(jax.grad(loss, (0, 1)), params, z) == 0


@CAN_LOWER
def test_exported_programs_run_on_any_gpu():
    run, params, z = decoder()
    assert (
        "mosaic_gpu" not in export.export(jax.jit(run), platforms=["cuda"])(params, z).mlir_module()
    )


@CAN_LOWER
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_over_a_mesh_keeps_them_and_rows_do_not(kind):
    config = VARIANTS["taesd"]
    mesh = jax.make_mesh((2, 1), ("batch", "rows"), axis_types=(kind, kind))
    _, params, z = decoder()
    params = {"decoder": jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params)}
    params = jax.device_put(params, replicate(mesh))

    def text_of(**axes):
        latents = jax.device_put(jnp.zeros(z.shape, z.dtype), shard_images(mesh, **axes))
        lowered = lower_call(params, latents, config=config, strategy=Full(kernels=True))
        return lowered.as_text()

    by_batch, by_rows = text_of(batch="batch"), text_of(batch="batch", rows="rows")
    assert by_batch.count(CALL) == 12
    assert "all_gather" not in by_batch
    assert by_rows.count(CALL) == 0


def lower_call(params, latents, *, config, strategy):
    """Lower what `decode` compiles for concrete arrays, for CUDA."""
    computation = Computation.of("decoder", latents, config=config)
    lowered = []
    with pytest.MonkeyPatch.context() as patch:

        def record(*arguments):
            lowered.append(_run.trace(*arguments).lower(lowering_platforms=("cuda",)))

        patch.setattr(run_module, "_run", record)
        run(params["decoder"], latents, computation, strategy, None)
    return lowered[0]


@CAN_LOWER
def test_a_pallas_that_has_changed_means_xla_and_a_warning(monkeypatch):
    from taesd_jax.kernels import hopper

    def broken(*_, **__):
        raise AttributeError("module 'mosaic_gpu' has no attribute 'wgmma'")

    monkeypatch.setattr(hopper, "conv", broken)
    run, params, z = decoder()
    with pytest.warns(UserWarning, match="TAESD_JAX_KERNELS=0"):
        text = lower(run, params, z)
    assert text.count("stablehlo.convolution") == 31
