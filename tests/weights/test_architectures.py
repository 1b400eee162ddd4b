"""The architecture is read from names and shapes, strict about everything else."""

import re

import numpy as np
import pytest
from models import (
    CONFIGS,
    SMALL,
    assemble,
    named,
    part,
    random_model,
    random_state,
    random_states,
    same,
)

from taesd_jax import (
    VARIANTS,
    CheckpointError,
    weights,
)


@pytest.mark.parametrize("format", ["module", "diffusers", "comfyui"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_architecture_is_read_from_names_and_shapes(name, format):
    config = CONFIGS[name]
    params, got, format_read = assemble(named(random_states(config), format))
    assert got == config.architecture
    assert format_read == format
    assert same(params, random_model(config)[0])


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_one_component_is_recognised_alone(name, component):
    config = CONFIGS[name]
    params, got, format_read = assemble(random_state(component, config))
    assert format_read == "original"
    assert list(params) == [component]
    prefix = f"num_{component}", f"{component}_", "latent", "pool"
    fields = [f for f in config.to_dict() if f.startswith(prefix)]
    assert {f: getattr(got, f) for f in fields} == {f: getattr(config, f) for f in fields}


def test_a_published_component_brings_the_config_of_its_model():
    for name in ("taesana", "taef2", "taesd3"):
        for component in ("encoder", "decoder"):
            config = assemble(random_state(component, VARIANTS[name])).config
            assert config == VARIANTS[name].architecture


def test_every_wrong_tensor_is_listed_at_once():
    tensors = named(random_states(VARIANTS["taesd"]), "diffusers")
    del tensors["encoder.layers.0.bias"], tensors["decoder.layers.4.conv.2.weight"]
    tensors["decoder.layers.2.conv.0.bias"] = np.zeros(63, np.float32)
    tensors["encoder.layers.3.conv.6.weight"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as error:
        assemble(tensors)
    lines = str(error.value).split("\n")
    assert "taesd or taesdxl" in lines[0]
    # Each with its name; a wrong shape with both shapes.
    patterns = [
        r"decoder 3\.conv\.0\.bias.*\(64,\).*\(63,\)",
        r"decoder 5\.conv\.2\.weight.*missing",
        r"encoder 0\.bias.*missing",
        r"encoder 3\.conv\.6\.weight.*unexpected",
    ]
    for line, pattern in zip(sorted(lines[1:]), patterns, strict=True):
        assert re.search(pattern, line)


def test_a_custom_model_is_compared_with_itself():
    tensors = named(random_states(CONFIGS["wide"]), "module")
    del tensors["decoder.5.conv.2.bias"]
    with pytest.raises(CheckpointError, match=r"\n *decoder 5\.conv\.2\.bias: missing$"):
        assemble(tensors)


@pytest.mark.parametrize("dropped", ["11.pool.0.weight", "12.pool.1.bias", "13.pool.3.weight"])
def test_a_lost_pool_weight_is_noticed(dropped):
    state = random_state("encoder", VARIANTS["taef2"])
    del state[dropped]
    with pytest.raises(CheckpointError, match=f"encoder {re.escape(dropped)}: missing"):
        assemble(state)


def test_every_single_loss_is_noticed():
    # Whatever one tensor is lost, no other architecture fits what is left.
    for config in (SMALL, VARIANTS["taef2"], VARIANTS["taesana"]):
        shapes = {k: np.broadcast_to(np.float32(0), v.shape)
                  for k, v in named(random_states(config), "module").items()}  # fmt: skip
        for name in shapes:
            rest = {k: v for k, v in shapes.items() if k != name}
            with pytest.raises(CheckpointError):
                assemble(rest)


def test_an_encoder_without_its_first_layer_is_still_an_encoder():
    for config in (SMALL, VARIANTS["taesana"]):
        state = random_state("encoder", config)
        del state["0.weight"], state["0.bias"]
        with pytest.raises(CheckpointError, match=r"encoder 0\.weight: missing"):
            assemble(state)


def test_only_the_exact_flax_spelling_is_read():
    tensors = named(random_states(SMALL), "flax")
    assert assemble(tensors).format == "flax"
    for extra in (
        "encoder.layers_0.weight",
        "encoder.layers_0.scale",
        "encoder.layers_1.conv.0.kernel",
        "encoder.layers_01.kernel",
    ):
        wrong = tensors | {extra: np.zeros((3, 3, 3, 8), np.float32)}
        with pytest.raises(CheckpointError, match=re.escape(f"['{extra}']")):
            assemble(wrong)


def test_components_of_two_models_are_refused():
    def mix(encoder, decoder):
        states = {
            "encoder": random_state("encoder", VARIANTS[encoder]),
            "decoder": random_state("decoder", VARIANTS[decoder]),
        }
        return assemble(named(states, "module"))

    with pytest.raises(
        CheckpointError,
        match=r"encoder.*taesd3 or taef1.*16.*decoder.*taesd",
    ):
        mix("taesd3", "taesd")
    with pytest.raises(CheckpointError, match="encoder.*taef2.*decoder.*taesana"):
        mix("taef2", "taesana")
    state = random_state("encoder", SMALL)
    with pytest.raises(CheckpointError, match="two encoders"):
        weights.assemble([part(state, "a"), part(state, "b")], fields={}, variant="", origin="x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tiny_vae.encoder.layers.0.weight", "extra_encoder.conv.weight"], r"FLUX\.2-Tiny"),
        (["decoder.up_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"], "AutoencoderKL"),
        (["encoder.down.0.block.0.conv1.weight", "encoder.mid.block_1.x"], "VAE"),
        (["model.weight"], r"model\.weight"),
        ([], "0 tensors"),
    ],
)
def test_other_projects_are_named(names, message):
    with pytest.raises(CheckpointError, match=message):
        assemble({name: np.zeros((1, 1, 3, 3), np.float32) for name in names})


def test_a_stray_tensor_is_named():
    tensors = named(random_states(SMALL), "diffusers") | {"step": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match=r"\['step'\]"):
        assemble(tensors)
