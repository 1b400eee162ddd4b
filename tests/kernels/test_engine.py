"""oneDNN's bfloat16 convolutions on CPUs: where they are chosen, and what they give."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SMALL, image, latent, random_model, with_thumbnails

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, Full, Strips, Tiles
from taesd_jax.kernels import Engine, engine
from taesd_jax.kernels.engine import has_fast_bfloat16, has_onednn
from taesd_jax.model.functional import Computation, abstract_params
from taesd_jax.strategies import run as run_module
from taesd_jax.strategies.planner import Limits, choose
from taesd_jax.strategies.run import _run
from taesd_jax.strategies.sharding import replicate, shard_images

# XLA cannot write these programs: they are compiled in every process.
pytestmark = pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache entry")

CPUINFO = Path("/proc/cpuinfo")
FLAGS = CPUINFO.read_text().split() if CPUINFO.exists() else []
CAN_RUN = pytest.mark.skipif(
    jax.__version_info__ < (0, 11, 2) or not {"avx512_bf16", "amx_bf16"} & set(FLAGS),
    reason="needs jax 0.11.2 and a CPU with instructions for bfloat16",
)
# Of mean errors, to those of float32 sums, which are PyTorch's or less: the README's bound.
BOUND = 1.2
# Of a mean value, by some fifteen roundings to bfloat16 on the way to it.
ROUNDING = 15 * 2**-9
CALL = "__onednn$convolution"


@pytest.fixture
def on(monkeypatch):
    """Make this CPU and this jax ones that have the convolutions."""
    monkeypatch.delenv("TAESD_JAX_KERNELS")
    monkeypatch.setattr(engine, "_OLDEST_JAX", (0,))
    monkeypatch.setattr(engine, "has_fast_bfloat16", lambda: True)


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : fpu avx512f", False),
        ("vendor_id : GenuineIntel\nflags : fpu avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel\nflags : fpu avx512_bf16 amx_bf16 amx_tile", True),
        ("CPU implementer : 0x41\nFeatures : fp asimd bf16", False),
    ],
)
def test_processors(text, fast, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_fast_bfloat16(tmp_path / "cpuinfo") == fast
    assert not has_fast_bfloat16(tmp_path / "absent")


def test_it_serves_bfloat16_unless_it_is_switched_off(on, monkeypatch):
    assert has_onednn("bfloat16")
    assert not has_onednn("bfloat16", False)
    assert not has_onednn("float16")
    assert not has_onednn("float32")
    monkeypatch.setenv("TAESD_JAX_KERNELS", "0")
    assert not has_onednn("bfloat16")
    monkeypatch.undo()
    monkeypatch.setattr(engine, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    assert not has_onednn("bfloat16")


@pytest.mark.parametrize("strategy", [Full(), Strips(2, 2)])
@pytest.mark.parametrize("component", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["taesd", "taef2"])
def test_a_model_stays_in_half_precision(name, component, strategy):
    config = VARIANTS[name]
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), abstract_params(component, config)
    )
    shape = (1, 64, 64, 3) if component == "encoder" else (1, 8, 8, config.latent_channels)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    results = {}
    for onednn in (False, True):
        computation = Computation(
            component, config.architecture, "bfloat16", "bfloat16", engine=Engine(onednn=onednn)
        )
        text = _run.lower(params, x, computation, strategy, None, None).as_text()
        results[onednn] = re.findall(r"stablehlo\.convolution.*-> tensor<\S*x(\w+)>", text)
    assert set(results[False]) == {"f32"}
    assert set(results[True]) == {"bf16"}


@pytest.fixture(scope="module")
def model():
    params, config = random_model(SMALL)
    return jax.tree.map(jnp.asarray, params), config


def chosen(monkeypatch, call):
    """Return the programs that a call runs, and whether oneDNN serves their convolutions."""
    seen = []
    with monkeypatch.context() as patch:
        for name in ("_run", "_run_by_onednn"):

            def record(*arguments, name=name):
                seen.append((name, arguments[2].engine.onednn))
                return _run(*arguments)

            patch.setattr(run_module, name, record)
        call()
    return seen


@pytest.mark.slow
def test_calls_outside_jit_have_it(on, model, monkeypatch):
    params, config = model
    z = jnp.asarray(latent(config, (4, 4), n=2), jnp.bfloat16)
    x = jnp.asarray(image(config, (32, 32)), jnp.bfloat16)
    vae = AutoencoderTiny(params, config, dtype="bfloat16")
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(z, shard_images(mesh, batch="batch"))
    everywhere = jax.device_put(params, replicate(mesh))
    host, oned = ("_run", False), ("_run_by_onednn", True)

    def decode(z=z, params=params, **options):
        return taesd_jax.decode(params, z, config=config, **options)

    for call, wanted in (
        (decode, [oned]),
        (lambda: decode(strategy=Strips(1, 2)), [oned]),
        (lambda: decode(batch_size=1), [oned]),
        (lambda: decode(z.astype(jnp.float32), dtype="bfloat16"), [oned]),
        (lambda: taesd_jax.encode(params, x, config=config), [oned]),
        (lambda: vae.decode(z), [oned]),
        (lambda: decode(z.astype(jnp.float32)), [host]),
        (lambda: decode(dtype="float16"), [host]),
        (lambda: decode(strategy=Full(kernels=False)), [host]),
        (lambda: decode(strategy=Tiles(2)), []),
        (lambda: jax.jit(decode)(z), [host]),
        (lambda: jax.vmap(lambda z: decode(z[None]))(z), [host]),
        (lambda: jax.grad(lambda z: decode(z).astype(jnp.float32).sum())(z), [host]),
        (lambda: decode(spread, everywhere), [host]),
    ):
        assert chosen(monkeypatch, call) == wanted
    monkeypatch.setenv("TAESD_JAX_KERNELS", "0")
    assert chosen(monkeypatch, decode) == [host]


def test_the_planner_takes_taller_strips(on):
    config = VARIANTS["taesd"]
    vae = AutoencoderTiny({"decoder": {}}, config, dtype="bfloat16")
    z = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
    assert vae.strategy("decoder", z).strategy == Strips(2, 16)
    vae.dtype = None
    assert vae.strategy("decoder", z).strategy == Strips(1, 4)
    computation = Computation(
        "decoder", config.architecture, "bfloat16", "bfloat16", engine=Engine(onednn=True)
    )
    # What does not fit is run in smaller parts, as ever.
    assert choose(computation, (1, 64, 4096, 4), "cpu", Limits(2**26)).strategy != Strips(2, 16)


@CAN_RUN
@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_errors_stay_within_the_bound(on, model, component):
    params, config = model
    if component == "decoder":
        run, x = taesd_jax.decode, latent(config, (24, 16), n=2)
    else:
        run, x = taesd_jax.encode, image(config, (192, 128), n=2)
    wanted = np.asarray(run(params, x, config=config))

    def error(**options):
        got = run(params, x, config=config, dtype="bfloat16", **options)
        assert (got == run(params, x, config=config, dtype="bfloat16", **options)).all()
        return np.abs(np.asarray(got, np.float32) - wanted).mean()

    plain = error(strategy=Full(kernels=False))
    for options in ({}, {"strategy": Strips(2, 4)}, {"batch_size": 1}):
        assert 0 < error(**options) <= BOUND * plain


@CAN_RUN
def test_eight_bits_thumbnails_and_broken_latents(on, model):
    params, config = model
    z = latent(config, (6, 4), n=3)
    options = {"config": config, "dtype": "bfloat16"}
    images = taesd_jax.decode(params, z, **options)
    bytes_ = taesd_jax.decode(params, z, out_dtype="uint8", **options)
    assert (bytes_ == taesd_jax.io.to_uint8(np.asarray(images, np.float32))).all()
    thumbnails = [
        taesd_jax.decode(with_thumbnails(params, config), z, scale=1 / 2, strategy=full, **options)
        for full in (Full(), Full(kernels=False))
    ]
    difference = jnp.abs(jnp.subtract(*(jnp.float32(t) for t in thumbnails)))
    assert difference.mean() <= ROUNDING * jnp.abs(jnp.float32(thumbnails[1])).mean()
    z[1] = np.nan
    broken = taesd_jax.decode(params, z, **options)
    assert jnp.isnan(broken[1]).any()
    assert (broken[::2] == images[::2]).all()


@CAN_RUN
@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_compiled_ahead_of_time(on, model, component):
    params, config = model
    vae = AutoencoderTiny(params, config)
    x = image(config, (32, 32)) if component == "encoder" else latent(config, (4, 4))
    x = jnp.asarray(x, jnp.bfloat16)
    compiled = vae.compile(x.shape, component=component, dtype="bfloat16")
    assert CALL in compiled.program.as_text()
    called = vae.encode(x).latents if component == "encoder" else vae.decode(x).sample
    assert (compiled(vae, x) == called).all()
    plain = vae.compile(x.shape, component=component, dtype="float32")
    assert CALL not in plain.program.as_text()
