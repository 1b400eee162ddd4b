"""The model that is trained: a new one, and its two components in the folder of a training run."""

from __future__ import annotations

from pathlib import Path

import jax

from .. import weights
from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import TrainingError
from ..model.functional import Params, init
from ..model.layers import COMPONENTS, Component, build_layers
from .records import locked


def new_student(
    component: Component, config: AutoencoderTinyConfig, *, seed: int
) -> AutoencoderTiny:
    """Return a model with random params for one component; a decoder's images start mid-grey.

    Args:
        component: "encoder" or "decoder"; the other one is left out.
        config: Architecture.
        seed: Seed of the random numbers.
    """
    params = init(jax.random.key(seed), config=config)[component]
    if component == "decoder":
        last = params[build_layers(component, config)[-1].name]
        last["bias"] = last["bias"] + 0.5  # the last convolution's images are in [0, 1]
    return AutoencoderTiny({component: params}, config)


def join_stored(
    folder: Path, model: AutoencoderTiny, component: Component
) -> tuple[Params, AutoencoderTinyConfig]:
    """Return a model's params and config, with the other component that is in the folder, if any.

    Raises:
        TrainingError: The two do not fit together.
    """
    (other,) = set(COMPONENTS) - {component}
    file, config = folder / f"model_{other}.safetensors", model.config
    if not file.exists():
        return model.params, config
    stored = weights.load(file)
    ours, theirs = config.to_dict(), stored.config.to_dict()
    shared = [name for name in ours if other not in name and component not in name]
    if differing := [name for name in shared if ours[name] != theirs[name]]:
        raise TrainingError(
            f"{file} has another {', '.join(differing)} than this {component}; name another folder"
        )
    fields = {name: getattr(stored.config, name) for name in ours if other in name}
    params = {component: model.params[component], other: stored.params[other]}
    return params, config.replace(**fields)


def write_model(folder: Path, model: AutoencoderTiny, component: Component) -> None:
    """Write a model as `folder`/model_{encoder,decoder}.safetensors, see `join_stored`."""
    # A training run of the other component may end at this moment.
    with locked(folder, blocking=True):
        params, config = join_stored(folder, model, component)
        weights.save(folder / "model", params, config, format="original")
