import json
import pickle

import pytest

from taesd_jax import VARIANTS, AutoencoderTinyConfig


def test_published_variants_have_the_published_shape():
    facts = {
        "taesd": (4, 8),
        "taesdxl": (4, 8),
        "taesd3": (16, 8),
        "taef1": (16, 8),
        "taef2": (32, 8),
        "taesana": (32, 32),
    }
    got = {name: (c.latent_channels, c.spatial_factor) for name, c in VARIANTS.items()}
    assert got == facts
    assert {name: c.variant for name, c in VARIANTS.items()} == {name: name for name in facts}


def test_variants_of_one_architecture_differ_in_their_latent_space():
    taesd, taesdxl = VARIANTS["taesd"], VARIANTS["taesdxl"]
    assert taesd != taesdxl
    assert taesd.architecture == taesdxl.architecture
    assert taesd.same_architecture == ("taesd", "taesdxl")
    assert taesd.replace(name_or_path="x") == taesd
    assert AutoencoderTinyConfig().variant is None
    # What does not change the tensors does not change the variant.
    assert taesd.replace(force_upcast=True, scaling_factor=2.0).variant == "taesd"
    assert taesd.replace(act_fn="silu").variant is None


def test_json_round_trip():
    for config in VARIANTS.values():
        again = AutoencoderTinyConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again.to_dict() == config.to_dict()
        assert pickle.loads(pickle.dumps(config)) == config


def test_diffusers_config_is_read():
    fields = {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": "0.39.0",
        "block_out_channels": [64, 64, 64, 64],
        "latent_magnitude": 3,
        "latent_channels": 16,
    }
    config = AutoencoderTinyConfig.from_dict(fields)
    assert config == VARIANTS["taesd3"].architecture
    assert config.with_variant("taesd3") == VARIANTS["taesd3"]


def test_unknown_fields_warn():
    with pytest.warns(UserWarning, match=r"ignored: \['sampel_size'\]"):
        AutoencoderTinyConfig.from_dict({"sampel_size": 4})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_channels": 0}, "latent_channels must be an integer from 1 to 4096, got 0"),
        ({"latent_channels": "4"}, "latent_channels must be an integer"),
        ({"latent_channels": True}, "latent_channels must be an integer"),
        ({"latent_channels": 10**9}, "latent_channels must be an integer from 1 to 4096"),
        ({"num_decoder_blocks": [3, 3, 3, -1]}, "num_decoder_blocks must be a tuple"),
        ({"num_decoder_blocks": [3, 3, 3, 10**6]}, "num_decoder_blocks must be a tuple"),
        ({"num_decoder_blocks": [3, 3, 1]}, "must name the same 1 to 10 stages"),
        ({"num_decoder_blocks": 3}, "num_decoder_blocks must be a tuple"),
        ({"act_fn": "tanh"}, "act_fn must be 'relu' or 'silu'"),
        ({"upsample_fn": "bilinear"}, "upsample_fn must be 'nearest'"),
        ({"upsampling_scaling_factor": 3}, "upsampling_scaling_factor must be 2"),
        ({"latent_magnitude": float("nan")}, "latent_magnitude must be a number above 0"),
        ({"latent_magnitude": 0}, "latent_magnitude must be a number above 0"),
        ({"latent_shift": 7}, "latent_shift must be a number from 0 to 1"),
        ({"raw_latent_scale": -1}, "raw_latent_scale must be a number above 0"),
        ({"scaling_factor": 10**400}, "scaling_factor must be a finite number"),
        ({"scaling_factor": None}, "scaling_factor must be a finite number"),
        ({"force_upcast": 1}, "force_upcast must be true or false"),
        ({"pool_channels": 6}, "pool_channels must be a multiple of 4"),
        ({"encoder_stem_channels": [32, 32]}, "encoder_stem_channels must end with the width"),
        ({"_class_name": "AutoencoderKL"}, "must be of class AutoencoderTiny, got 'AutoencoderKL'"),
        ([], "a config must be a JSON object, got list"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderTinyConfig.from_dict(fields)


def test_components_must_change_the_size_alike():
    with pytest.raises(ValueError, match="divides it by 8 and this decoder multiplies it by 32"):
        AutoencoderTinyConfig(
            decoder_block_out_channels=(64,) * 6, num_decoder_blocks=(3, 3, 3, 3, 3, 1)
        )


def test_what_diffusers_can_express():
    fits = {name for name, config in VARIANTS.items() if config.fits_diffusers}
    assert fits == {"taesd", "taesdxl", "taesd3", "taef1"}
    assert not AutoencoderTinyConfig(decoder_block_out_channels=(64, 64, 32, 32)).fits_diffusers
