"""Write golden.npz: what PyTorch computes for random models of every variant.

Run `python tests/golden.py` where torch is installed. Weights and inputs are drawn by models.py
with numpy, so that only results and a digest of the weights are stored.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from models import SMALL, image, latent, random_states

from taesd_jax import VARIANTS

CONFIGS = {
    **{name: VARIANTS[name] for name in ("taesd", "taesd3", "taef2", "taesana")},
    "small": SMALL,
    "narrowing": SMALL.replace(
        encoder_block_out_channels=(8, 12, 16, 24),
        decoder_block_out_channels=(24, 16, 12, 8),
        width_change="block",
        act_fn="silu",
        pool_channels=16,
    ),
}


def inputs(config):
    """Return the image and the latent of a config; sizes are odd in latents."""
    factor = config.spatial_factor
    return image(config, (factor + 3, 2 * factor)), latent(config, (1, 3))


def compute():
    """Return what is stored, but for the recipe; it needs PyTorch."""
    import reference
    import torch

    def nchw(x):
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))

    results = {}
    for name, config in CONFIGS.items():
        states = random_states(config)
        digest = hashlib.sha256()
        for state in states.values():
            for tensor in state.values():
                digest.update(tensor.tobytes())
        results[f"{name}/weights"] = np.array(digest.hexdigest())
        act = getattr(torch.nn.functional, config.act_fn)
        x, z = inputs(config)
        for key, run, component, value in (
            ("latent", reference.encode, "encoder", x),
            ("image", reference.decode, "decoder", z),
        ):
            state = {k: torch.from_numpy(v) for k, v in states[component].items()}
            result = run(state, nchw(value), act).numpy()
            results[f"{name}/{key}"] = np.moveaxis(result, 1, -1)
    return results


def main():
    import torch

    results = compute()
    recipe = {
        "command": "python tests/golden.py",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "content": "reference.py on models.random_states(config), float32, NHWC",
    }
    results["recipe"] = np.array(json.dumps(recipe))
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **results)


if __name__ == "__main__":
    main()
