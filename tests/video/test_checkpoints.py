"""Checkpoints by their published names: read strictly, recognised, written back as they were."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from video_models import narrow, random_tensors

from taesd_jax import CheckpointError, CheckpointNotFoundError
from taesd_jax.video import VIDEO_VARIANTS, from_tensors, load_video, save_video, to_tensors
from taesd_jax.video.checkpoints import recognise
from taesd_jax.video.tensors import tensor_shapes

NARROW = narrow("taew2_1")
# Millions of parameters of encoder and decoder, as published.
PARAMETERS = {
    "taew2_1": (1.47, 9.84),
    "taew2_2": (1.49, 9.92),
    "taew2_2_super": (1.49, 18.99),
    "taehv1_5": (1.49, 9.89),
    "taeh3": (1.48, 9.87),
    "taeltx_2": (1.57, 10.19),
    "taeltx2_3_wide": (1.57, 28.61),
    "taem1": (1.47, 9.84),
}
CLEAR = ("taew2_2", "taew2_2_super", "taehv1_5_super", "taeh3", "taeltx2_3_wide", "taem1")


@pytest.fixture
def checkpoint(tmp_path):
    """Return a narrow model in a file of this package, and its params."""
    params = from_tensors(random_tensors(NARROW), config=NARROW)
    return save_video(tmp_path / "model.safetensors", params, NARROW), params


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_the_published_ones(name):
    shapes = tensor_shapes(VIDEO_VARIANTS[name])
    for component, millions in zip(("encoder", "decoder"), PARAMETERS[name], strict=True):
        sizes = [np.prod(s) for key, s in shapes.items() if key.startswith(component)]
        assert round(sum(sizes) / 1e6, 2) == millions


@pytest.mark.parametrize("name", CLEAR)
def test_shapes_tell_a_variant(name):
    assert recognise(tensor_shapes(VIDEO_VARIANTS[name])) == VIDEO_VARIANTS[name]


def test_variants_of_one_arithmetic_need_no_name():
    assert recognise(tensor_shapes(VIDEO_VARIANTS["taeltx_2"])) == VIDEO_VARIANTS["taeltx2_3"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("taew2_1", "taew2_1"),
        ("taecvx", "taecvx"),
        ("taehv1_5-fp16", "taehv1_5"),
        ("lighttaehy1_5", "lighttaehy1_5"),
    ],
)
def test_where_shapes_leave_several_the_files_name_tells(file, name):
    shapes = tensor_shapes(VIDEO_VARIANTS[name])
    assert recognise(shapes, name=file) == VIDEO_VARIANTS[name]
    with pytest.raises(CheckpointError, match=rf"{name}.*--variant"):
        recognise(shapes, name="model")
    assert recognise(shapes, variant=name, name="model") == VIDEO_VARIANTS[name]


def test_one_component_is_recognised_too():
    shapes = tensor_shapes(VIDEO_VARIANTS["taem1"])
    decoder = {key: shape for key, shape in shapes.items() if key.startswith("decoder.")}
    assert recognise(decoder) == VIDEO_VARIANTS["taem1"]


def test_other_tensors_are_named():
    shapes = tensor_shapes(VIDEO_VARIANTS["taem1"])
    shapes["decoder.1.weight"] = (256, 13, 3, 3)
    shapes["decoder.99.weight"] = (1,)
    del shapes["encoder.0.bias"]
    with pytest.raises(CheckpointError) as caught:
        recognise(shapes)
    for line in (
        "nearest is taem1",
        "encoder.0.bias: missing",
        "decoder.99.weight: unexpected",
        "decoder.1.weight: expected shape (256, 12, 3, 3), got (256, 13, 3, 3)",
    ):
        assert line in str(caught.value)
    with pytest.raises(CheckpointError, match="no tensors"):
        recognise({})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["taew2_1", "taew2_2_super", "taeltx2_3_wide", "taem1"])
def test_tensors_come_back_as_they_were(tmp_path, name, dtype):
    config = narrow(name)
    tensors = random_tensors(config, dtype=dtype)
    params = from_tensors(tensors, config=config)
    path = save_video(tmp_path / "model.safetensors", params, config)
    stored = load_file(path)
    assert stored.keys() == tensors.keys() == to_tensors(params).keys()
    for key, tensor in tensors.items():
        assert stored[key].dtype == tensor.dtype
        assert stored[key].tobytes() == tensor.tobytes()
    loaded = load_video(path)
    assert loaded.config == config
    for key, tensor in to_tensors(loaded.params).items():
        assert tensor.tobytes() == tensors[key].tobytes()


def test_another_programs_file_of_a_published_name(tmp_path):
    tensors = {
        k: np.zeros(s, np.float16) for k, s in tensor_shapes(VIDEO_VARIANTS["taem1"]).items()
    }
    save_file(tensors, tmp_path / "taem1.safetensors")
    params, config = load_video(tmp_path / "taem1.safetensors")
    assert config == VIDEO_VARIANTS["taem1"]
    assert config.name_or_path.endswith("taem1.safetensors")
    assert params["decoder"]["layers_22"]["kernel"].dtype == np.float16


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_published_pickles_load_where_torch_is(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from taesd_jax.convert import load_video_pth

    config = VIDEO_VARIANTS["taecvx"]
    tensors = random_tensors(config)
    state = {k: torch.from_numpy(t).to(getattr(torch, dtype)) for k, t in tensors.items()}
    torch.save(state, tmp_path / "taecvx.pth")
    params, loaded = load_video_pth(tmp_path / "taecvx.pth")
    assert loaded == config
    assert loaded.name_or_path.endswith("taecvx.pth")
    for key, tensor in to_tensors(params).items():
        assert np.array_equal(tensor, tensors[key].astype(tensor.dtype))
        assert tensor.dtype.name == dtype
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth: .*taecvx.*--variant"):
        load_video_pth(tmp_path / "model.pth")
    assert load_video_pth(tmp_path / "model.pth", variant="taew2_1").config.frame_rule == "causal"
    with pytest.raises(CheckpointNotFoundError):
        load_video_pth(tmp_path / "none.pth")
    state["decoder.1.bias"] = torch.zeros(256, dtype=torch.int32)
    torch.save(state, tmp_path / "taecvx.pth")
    with pytest.raises(CheckpointError, match=r"taecvx\.pth: .*decoder\.1\.bias is torch\.int32"):
        load_video_pth(tmp_path / "taecvx.pth")


def test_integers_are_no_weights(tmp_path, checkpoint):
    _, params = checkpoint
    tensors = to_tensors(params)
    tensors["decoder.1.bias"] = np.zeros(16, np.int32)
    metadata = {"video_config": json.dumps(NARROW.to_dict())}
    save_file(tensors, tmp_path / "integers.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=r"decoder\.1\.bias is I32"):
        load_video(tmp_path / "integers.safetensors")


def test_errors_of_loading(tmp_path, checkpoint):
    path, _ = checkpoint
    with pytest.raises(CheckpointNotFoundError):
        load_video(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match=r"taew2_1.*got 'taew9'"):
        load_video(path, variant="taew9")
    with pytest.raises(CheckpointError, match="decoder.1.weight"):
        load_video(path, variant="taew2_1")
    (tmp_path / "taew2_1.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="load_video_pth"):
        load_video(tmp_path / "taew2_1.pth")


def test_a_damaged_file_is_refused(checkpoint):
    path, _ = checkpoint
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="digest"):
        load_video(path)


def test_a_hostile_config_is_refused(tmp_path, checkpoint):
    _, params = checkpoint
    for fields in (
        {"num_blocks": 10**9},
        {"block_style": "huge"},
        {"unknown": 1},
        {"time_grow": []},
    ):
        metadata = {"video_config": json.dumps(NARROW.to_dict() | fields)}
        save_file(to_tensors(params), tmp_path / "hostile.safetensors", metadata=metadata)
        with pytest.raises(CheckpointError, match="its config"):
            load_video(tmp_path / "hostile.safetensors")


def test_params_that_do_not_fit_are_not_written(tmp_path, checkpoint):
    path, params = checkpoint
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="decoder.1.weight"):
        save_video(path, params, NARROW.replace(latent_channels=5))
    with pytest.raises(CheckpointError, match="float64"):
        save_video(
            path, from_tensors(random_tensors(NARROW, dtype=np.float64), config=NARROW), NARROW
        )
    assert path.read_bytes() == before


def test_infinite_values_are_refused():
    tensors = random_tensors(NARROW)
    tensors["decoder.1.bias"][0] = np.inf
    with pytest.raises(CheckpointError, match="decoder.1.bias"):
        from_tensors(tensors, config=NARROW)
