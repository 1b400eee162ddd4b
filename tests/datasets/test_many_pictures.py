"""Thousands of small pictures, of every kind that data sets have: each a record or a failure."""

import io
import logging

import jax
import numpy as np
import pytest
from encoded_datasets import compiled_shapes, encoded, make_vae, noise, plan_of
from PIL import Image

from taesd_jax.datasets import checks, read
from taesd_jax.datasets.batches import make_encoder
from taesd_jax.datasets.encoding import Options
from taesd_jax.datasets.local import run_local
from taesd_jax.datasets.pictures import buckets
from taesd_jax.datasets.shards import finish

COUNT = 1300
# One of so many is odd, in turn: those of the first list fail, those of the second do not.
ODD = 10
FAILING = ("corrupt", "empty", "text", "bomb", "float")
READ = ("animated", "huge", "cmyk", "grey16", "palette", "rgba", "turned", "thin")


def animated(i):
    buffer, frames = io.BytesIO(), [Image.fromarray(noise((30, 40), i + j)) for j in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def converted(i, mode, kind):
    buffer = io.BytesIO()
    Image.fromarray(noise((30, 40), i)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def turned(i):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise((30, 60), i), "JPEG", exif=exif)


def bomb():
    """A PNG that claims more pixels than Pillow takes."""
    data = bytearray(encoded(noise()))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


MAKE = {
    "corrupt": lambda i: encoded(noise((40, 40), i), "JPEG")[:300],
    "empty": lambda i: b"",
    "text": lambda i: b"<html>404</html>",
    "bomb": lambda i: bomb(),
    "float": lambda i: converted(i, "F", "TIFF"),
    "animated": animated,
    "huge": lambda i: encoded(np.tile(noise((10, 14), i), (200, 200, 1)), "JPEG"),
    "cmyk": lambda i: converted(i, "CMYK", "JPEG"),
    "grey16": lambda i: encoded(noise((30, 40), i)[..., 0].astype(np.uint16) * 257),
    "palette": lambda i: converted(i, "P", "PNG"),
    "rgba": lambda i: encoded(np.dstack([noise((30, 40), i)] * 2)[..., :4]),
    "turned": turned,
    "thin": lambda i: encoded(noise((2, 90), i)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*decompression bomb")
def test_thousands_of_pictures_of_every_kind(tmp_path, caplog):
    source, rng, failing = tmp_path / "source", np.random.default_rng(0), set()
    source.mkdir()
    for i in range(COUNT):
        kind, number = "", i // ODD
        if i % ODD == 0:
            kind = [*FAILING, *READ][number % len(MAKE)]
        data = MAKE[kind](i) if kind else encoded(noise(tuple(rng.integers(20, 90, 2)), i), "JPEG")
        name = f"{i:05}-{kind}.img.png"
        (source / name).write_bytes(data)
        failing |= {name} if kind in FAILING else set()
    vae, geometry = make_vae(), buckets(32, multiple=8)
    options = {"geometry": geometry, "shard_images": 400, "store": "float16", "flip": True}
    plan = plan_of(source, tmp_path / "out", vae, **options)
    jax.clear_caches()
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        run_local(plan, range(plan.shards), make_encoder(vae), Options(), NoReporter())
    manifest = finish(plan)
    assert {failure.key for failure in manifest.failures} == failing
    assert len(failing) == COUNT // ODD // len(MAKE) * len(FAILING)
    assert manifest.records == 2 * (COUNT - len(failing))
    keys = [[item.key for item in plan.items(i)] for i in range(plan.shards)]
    assert [*checks.check(plan.folder, keys)] == []
    counts = compiled_shapes(caplog)
    shapes = {record.latent.shape for record in read(plan.folder)}
    assert len(shapes) == len(geometry.sizes)
    assert len(counts) == len(shapes)
    assert set(counts.values()) == {1}


class NoReporter:
    def observe(self, index, progress):
        pass

    def finish(self, report):
        pass
