"""Two processes of one `jax.distributed` program decode their parts of one batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROGRAM = """
import sys
import jax
import numpy as np
from jax.sharding import AxisType

jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
sys.path.insert(0, sys.argv[3])
from models import SMALL, latent, random_model
import taesd_jax
from taesd_jax.previews import PreviewStream
from taesd_jax.strategies.sharding import replicate, shard_images

params, config = random_model(SMALL)
z = latent(config, (8, 4), n=4)
want = taesd_jax.decode(params, z, config=config)
mesh = jax.make_mesh((2, 2), ("batch", "rows"), axis_types=(AxisType.Auto,) * 2)
where = shard_images(mesh, batch="batch", rows="rows")
part = jax.make_array_from_callback(z.shape, where, lambda index: z[index])
everywhere = jax.tree.map(
    lambda p: jax.make_array_from_callback(p.shape, replicate(mesh), lambda index: p[index]), params
)
seen = []
with PreviewStream(lambda step, pixels: seen.append(step), config=config) as stream:
    def run(params, z):
        stream.tap(params, 3, z)
        return taesd_jax.decode(params, z, config=config)
    images = jax.jit(run)(everywhere, part)
    images.block_until_ready()
assert images.shape == want.shape and not images.is_fully_addressable
for shard in images.addressable_shards:
    np.testing.assert_allclose(shard.data, want[shard.index], atol=2e-5, rtol=0)
print("shards", len(images.addressable_shards), "previews", seen)
"""


def test_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-c", PROGRAM, port]
    folder = str(Path(__file__).parents[1])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen([*command, str(i), folder], env=env, **pipes) for i in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("shards 2" in output for output in outputs), outputs
    assert sum("previews [3]" in output for output in outputs) == 1, outputs
