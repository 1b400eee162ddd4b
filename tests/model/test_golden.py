"""Small results that PyTorch computed once, for environments without it.

`python tests/golden.py` writes tests/golden.npz; it says how.
"""

import hashlib
import json
from pathlib import Path

import golden as golden_module
import numpy as np
import pytest
from golden import CONFIGS, inputs
from models import random_model, random_states

import taesd_jax

# As for whole models against PyTorch itself.
FLOAT32 = 5e-5
ROOT = Path(__file__).parents[2]


@pytest.fixture
def golden():
    with np.load(ROOT / "tests" / "golden.npz") as file:
        return dict(file)


@pytest.mark.oracle
def test_the_recipe_gives_the_numbers(golden):
    pytest.importorskip("torch")
    recipe = json.loads(str(golden.pop("recipe")))
    assert (ROOT / recipe["command"].removeprefix("python ")).samefile(golden_module.__file__)
    found = golden_module.compute()
    assert found.keys() == golden.keys()
    for name, stored in golden.items():
        if name.endswith("/weights"):
            assert stored == found[name]
        else:
            # Another release of PyTorch may sum in another order.
            np.testing.assert_allclose(found[name], stored, atol=FLOAT32, err_msg=name)


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
