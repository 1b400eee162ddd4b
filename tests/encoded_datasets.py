"""Sources of small pictures, and plans to encode them."""

import collections
import io

import numpy as np
from models import SHORT, random_model
from PIL import Image

from taesd_jax import AutoencoderTiny
from taesd_jax.datasets import pictures, plan, sources
from taesd_jax.weights.files import digest_tree

OPTIONS = {"dtype": "float32", "flip": False, "format": "webdataset", "image_column": None}
OPTIONS |= {"shard_images": 4, "store": "float32"}
SIDE = 32


def noise(size=(48, 40), seed=0):
    """Pixels (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def encoded(pixels, kind="PNG", **options):
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_source(folder, count=10, *, size=(48, 40)):
    """Write PNG files of noise; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:04}.png").write_bytes(encoded(noise(size, i)))
    return folder


def make_vae(seed=0):
    return AutoencoderTiny(*random_model(SHORT, seed))


def plan_of(source, folder, vae, *, geometry=None, dry=False, **options):
    """Plan to encode a source in shards of 4."""
    options = OPTIONS | options
    root, items = sources.list_items(str(source), image_column=options["image_column"])
    geometry = geometry or pictures.square(SIDE, multiple=8)
    digest = digest_tree(vae.params["encoder"])
    settings = plan.make_settings(vae.config, geometry, encoder_sha256=digest, **options)
    return plan.make_plan(folder, root, items, settings, model="m", dry=dry)


def contents(folder):
    """Return the bytes of every file of a data set, but the reports, which tell the time."""
    files = (p for p in sorted(folder.iterdir()) if not p.match("shard-*.json"))
    return {p.name: p.read_bytes() for p in files}


def compiled_shapes(caplog):
    """Return how often the encoder was compiled for each shape of its input."""
    messages = (record.getMessage() for record in caplog.records)
    encoders = [m for m in messages if m.startswith("Compiling jit(_run_batches)")]
    return collections.Counter(m.split(". Argument")[0].split("ShapedArray")[-1] for m in encoders)
