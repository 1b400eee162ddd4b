"""Small results that PyTorch computed once, for environments without it.

`python tests/golden.py` writes tests/golden.npz; it says how.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from golden import CONFIGS, inputs
from models import random_model, random_states

import taesd_jax

# As for whole models against PyTorch itself.
FLOAT32 = 5e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden.npz") as file:
        return dict(file)


def test_the_recipe_is_with_the_numbers(golden):
    recipe = json.loads(str(golden["recipe"]))
    assert recipe["command"] == "python tests/golden.py"
    assert recipe["torch"]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_numbers_of_pytorch(golden, name):
    config = CONFIGS[name]
    digest = hashlib.sha256()
    for state in random_states(config).values():
        for tensor in state.values():
            digest.update(tensor.tobytes())
    assert digest.hexdigest() == str(golden[f"{name}/weights"]), "numpy drew other weights"
    params, _ = random_model(config)
    image, latent = inputs(config)
    got = taesd_jax.encode(params, image, config=config)
    np.testing.assert_allclose(got, golden[f"{name}/latent"], atol=FLOAT32)
    got = taesd_jax.decode(params, latent, config=config)
    np.testing.assert_allclose(got, golden[f"{name}/image"], atol=FLOAT32)
