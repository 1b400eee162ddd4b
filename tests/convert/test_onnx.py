"""A decoder as ONNX, by jax2onnx, gives the same image in ONNX Runtime."""

import jax
import numpy as np
import pytest
from models import ROUNDING, SMALL, latent, random_model

import taesd_jax

to_onnx = pytest.importorskip("jax2onnx").to_onnx
# jax2onnx and its imports warn, and promote dtypes.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_decoder_runs_in_onnx_runtime():
    import onnxruntime

    params, config = random_model(SMALL)
    z = latent(config, (6, 5))
    expected = np.asarray(taesd_jax.decode(params, z, config=config))

    def decode(latent):
        return taesd_jax.decode(params, latent, config=config)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = to_onnx(decode, [z.shape])
    # While it traces it replaces parts of JAX, and JAX remembers the traces.
    jax.clear_caches()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (image,) = session.run(None, {session.get_inputs()[0].name: z})
    np.testing.assert_allclose(image, expected, atol=ROUNDING, rtol=0)
    np.testing.assert_array_equal(decode(z), expected)
