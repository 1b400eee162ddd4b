"""Bad and odd arguments of the Python functions, for odd_inputs.py."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from models import SMALL, random_model
from odd_inputs import Case

import taesd_jax
from taesd_jax import AutoencoderTiny
from taesd_jax.io import read_latent, to_uint8, write_latent


class Call:
    """A function with the name under which it is reported."""

    def __init__(self, label, function):
        self.label, self.function = label, function

    def __call__(self):
        return jax.block_until_ready(self.function())


def arrays(channels):
    """Yield (name, input, whether it works) for a component that takes so many channels."""
    z = np.random.default_rng(0).uniform(-1, 1, (1, 16, 24, channels)).astype("f4")
    yield "float32", z, True
    yield "float16", z.astype("f2"), True
    yield "bfloat16", jnp.asarray(z, jnp.bfloat16), True
    yield "big-endian", z.astype(">f4"), True
    yield "not contiguous", z[:, ::-1, ::2], True
    yield "read-only", np.broadcast_to(z[:1], (2, *z.shape[1:])), True
    yield "one pixel", z[:, :8, :8], True
    for name, odd in {
        "list": z.tolist(),
        "None": None,
        "text": "x.npy",
        "object": z.astype(object),
        "int8": (z * 99).astype("i1"),
        "uint8": (z * 99 + 99).astype("u1"),
        "bool": z > 0,
        "complex": z.astype("c8"),
        "rank 3": z[0],
        "rank 5": z[None],
        "rank 0": z[0, 0, 0, 0],
        "NCHW": z.transpose(0, 3, 1, 2),
        "channels": np.concatenate([z, z], -1),
        "no channels": z[..., :0],
        "no rows": z[:, :0],
        "no images": z[:0],
        "dict": {"sample": z},
    }.items():
        yield name, odd, False
    # Values: of what is in host memory.
    yield "float64 beyond float32", z.astype("f8") * 1e300, False


def calls(shared):
    """Yield all cases of the functions."""
    params, config = random_model(SMALL)
    vae = AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)

    def case(label, function, works):
        expected = {True: "works", False: "refused", None: None}[works]
        return Case("Python", Call(label, function), expected)

    for name, x, works in arrays(4):
        yield case(f"vae.decode {name}", lambda x=x: vae.decode(x).sample, works)
        yield case(f"decode {name}", lambda x=x: taesd_jax.decode(params, x, config=config), works)
    for name, x, works in arrays(3):
        yield case(f"vae.encode {name}", lambda x=x: vae.encode(x).latents, works)
        yield case(f"encode {name}", lambda x=x: taesd_jax.encode(params, x, config=config), works)
    photo = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3))
    for scale in (1, 255):
        x = (photo * scale / 255).astype("f4")
        yield case(f"vae.encode 0 to {scale}", lambda x=x: vae.encode(x).latents, scale == 1)
    z = np.zeros((1, 2, 3, 4), "f4")
    for option, values in {
        "scale": (0, -1, 2, 1 / 3, "1/2", None),
        "batch_size": (0, -1, 1.5, "2"),
        "strategy": ("full", 1, taesd_jax.Tiles),
        "dtype": ("int8", "x"),
    }.items():
        for value in values:
            words = {option: value}
            yield case(
                f"decode {words}",
                lambda words=words: taesd_jax.decode(params, z, config=config, **words),
                option == "scale" and value is None and None,
            )
    for make in (
        lambda: taesd_jax.Tiles(0),
        lambda: taesd_jax.Tiles(-8),
        lambda: taesd_jax.Tiles("x"),
        lambda: taesd_jax.Strips(rows=0),
        lambda: taesd_jax.Strips(full_stages=-1),
        lambda: AutoencoderTiny(params, config, memory_budget=-1),
        lambda: AutoencoderTiny(params, None),
        lambda: AutoencoderTiny({}, config),
        lambda: AutoencoderTiny(None, config),
        lambda: hash(vae),
        lambda: taesd_jax.AutoencoderTinyConfig(latent_channels=0),
        lambda: taesd_jax.AutoencoderTinyConfig(latent_channels="4"),
        lambda: taesd_jax.AutoencoderTinyConfig(act_fn="x"),
        lambda: taesd_jax.AutoencoderTinyConfig(encoder_block_out_channels=()),
        lambda: taesd_jax.AutoencoderTinyConfig(scaling_factor=float("nan")),
        lambda: taesd_jax.AutoencoderTinyConfig.from_dict([]),
    ):
        yield case(f"constructor, line {make.__code__.co_firstlineno}", make, False)
    for path in ("", ".", "nothing", "a\0b", "x" * 5000, "/", None, 7, b"x", "taesd9"):
        yield case(f"load {path!r}"[:40], lambda path=path: taesd_jax.load(path), False)
        yield case(f"read_image {path!r}"[:40], lambda p=path: taesd_jax.read_image(p), False)
        yield case(
            f"read_latent {path!r}"[:40], lambda p=path: read_latent(p, config=config), False
        )
    image = np.zeros((8, 8, 3), "f4")
    for name, odd in {
        "uint8": image.astype("u1"),
        "nan": image * np.nan,
        "rank 4": image[None],
        "grey": image[..., :1],
        "list": image.tolist(),
        "empty": image[:0],
        "None": None,
    }.items():
        # A list of floats is what NumPy makes of it.
        works = {"list": None, "uint8": True}.get(name, False)
        yield case(f"write_image {name}", lambda x=odd: taesd_jax.write_image("x.png", x), works)
        yield (
            case(
                f"write_latent {name}", lambda x=odd: write_latent("x.npz", x, config=config), False
            )
            if name != "rank 4"
            else case("to_uint8 int", lambda: to_uint8(np.ones(3, int)), False)
        )
    for name in ("x", "x.", ".png", "x.zip", "x.png.exe"):
        yield case(f"write_image to {name}", lambda p=name: taesd_jax.write_image(p, image), False)
    for fmt, path in itertools.product(("flax", "comfyui", "diffusers", "x"), ("", "/proc/x")):
        yield case(
            f"save {fmt} {path!r}",
            lambda p=path, f=fmt: taesd_jax.save(p, params, config, format=f),
            # For pathlib "" is the working folder.
            None if (fmt, path) == ("diffusers", "") else False,
        )
    del shared
