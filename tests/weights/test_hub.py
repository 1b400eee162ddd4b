"""Hub ids, through the real client, on a cache of the layout that it writes."""

import re
from unittest.mock import MagicMock

import pytest
from models import SMALL, random_model, random_state
from safetensors.numpy import save_file

import taesd_jax
from taesd_jax import AutoencoderTinyConfig, CheckpointError, CheckpointNotFoundError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache(folder, repo, revision="main"):
    """Make an empty cached repository; return its folder of files."""
    root = folder / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / revision).write_text(COMMIT)
    return snapshot


def test_a_diffusers_repository(tmp_path):
    params, config = random_model(AutoencoderTinyConfig())
    files = cache(tmp_path, "madebyollin/taesdxl")
    taesd_jax.save(files, params, config)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    # A variant's name stands for the author's repository.
    for source in ("madebyollin/taesdxl", "taesdxl"):
        loaded = taesd_jax.load(source, **options)
        assert loaded.config.variant == "taesdxl"
        assert loaded.config.name_or_path == source
    vae = taesd_jax.AutoencoderTiny.from_pretrained("taesdxl", **options)
    assert vae.config == config.with_variant("taesdxl")
    assert taesd_jax.load("taesdxl", revision=COMMIT, **options).config == vae.config


def test_a_repository_with_one_file_or_a_pair(tmp_path):
    params, config = random_model(SMALL)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    files = cache(tmp_path, "someone/tiny", "v2")
    taesd_jax.save(files / "tiny.safetensors", params, config, format="flax")
    assert taesd_jax.load("someone/tiny", revision="v2", **options).config == SMALL
    files = cache(tmp_path, "someone/pair")
    taesd_jax.save(files / "sub" / "pair", params, config, format="original")
    assert set(taesd_jax.load("someone/pair", subfolder="sub", **options).params) == set(params)
    files = cache(tmp_path, "someone/decoder")
    save_file(random_state("decoder", SMALL), files / "decoder_decoder.safetensors")
    assert list(taesd_jax.load("someone/decoder", **options).params) == ["decoder"]


def test_what_is_not_cached_is_not_found_offline(tmp_path):
    cache(tmp_path, "someone/empty")
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"someone/empty.*diffusion_pytorch_model\.safetensors",
    ):
        taesd_jax.load("someone/empty", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(CheckpointNotFoundError, match="someone/thing"):
        taesd_jax.load("someone/thing", cache_dir=tmp_path)


def test_a_local_folder_comes_before_the_hub(working_folder):
    params, config = random_model(SMALL)
    taesd_jax.save("owner/name", params, config)
    assert taesd_jax.load("owner/name").config == SMALL


@pytest.mark.parametrize("source", ["a/b/c", "./a/b", "/a/b", "a b/c", "a/b.safetensors", "-/x"])
def test_what_is_no_hub_id_is_not_sent(source):
    with pytest.raises(CheckpointNotFoundError, match=re.escape(repr(source))):
        taesd_jax.load(source)


def test_a_variants_name_asks_for_the_authors_repository(monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    def download(repo, file, **_):
        asked.append(repo)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", MagicMock)  # a hub that answers
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for name in taesd_jax.VARIANTS:
        asked.clear()
        with pytest.raises(CheckpointError):
            taesd_jax.load(name)
        assert set(asked) == {f"madebyollin/{name}"}


def hub_error(name):
    from huggingface_hub import errors

    kind = getattr(errors, name)
    error = kind.__new__(kind)
    Exception.__init__(error, f"{name} from the hub\nsecond line")
    error.response = MagicMock()
    return error


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("RepositoryNotFoundError", CheckpointNotFoundError, "a/b.* token="),
        ("RevisionNotFoundError", CheckpointNotFoundError, "a/b .*'v9'"),
        ("GatedRepoError", CheckpointNotFoundError, "a/b .*gated.* token="),
        ("LocalEntryNotFoundError", CheckpointNotFoundError, "a/b .*cache.*from the hub$"),
        (
            "EntryNotFoundError",
            CheckpointNotFoundError,
            r"a/b.*diffusion_pytorch_model\.safetensors",
        ),
        (
            "HfHubHTTPError",
            CheckpointError,
            "a/b .*HfHubHTTPError from the hub$",
        ),
    ],
)
def test_hub_errors_say_what_to_do(monkeypatch, name, kind, message):
    import huggingface_hub
    from huggingface_hub import constants

    def fail(*args, **kwargs):
        raise hub_error(name)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", MagicMock)  # a hub that answers
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(kind, match=message):
        taesd_jax.load("a/b", revision="v9")
