"""Latent files of other programs, read by their conventions."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from taesd_jax import VARIANTS, MediaFileError, from_vae_latents
from taesd_jax.io import read_latent, write_latent

TAESD, SDXL, SD3, FLUX = (VARIANTS[name] for name in ("taesd", "taesdxl", "taesd3", "taef1"))
# float32, after one scale and shift.
ROUNDING = 1e-6


def stored(z, n=1):
    """A latent (n, z, 3, 5), as PyTorch programs keep it."""
    return 4 * np.random.default_rng(0).standard_normal((n, z, 3, 5)).astype(np.float32)


def nhwc(latent):
    return latent.transpose(0, 2, 3, 1)


def check(path, expected, config, **options):
    latent = read_latent(path, config=config, **options).latent
    np.testing.assert_allclose(latent, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("config", [TAESD, SDXL, SD3, FLUX], ids=lambda c: c.variant)
def test_comfyui(tmp_path, config):
    path, latent = tmp_path / "ComfyUI_00001_.latent", stored(config.latent_channels)
    mark = {"latent_format_version_0": np.zeros(0, np.float32)}
    save_file({"latent_tensor": latent} | mark, path, metadata={"prompt": "{}"})
    check(path, from_vae_latents(nhwc(latent), config=config), config)
    # Older files have no mark, and hold what ComfyUI multiplies by 1 / 0.18215.
    save_file({"latent_tensor": latent}, path)
    check(path, from_vae_latents(nhwc(latent) / 0.18215, config=config), config)
    if config is TAESD:
        check(path, nhwc(latent), config)


@pytest.mark.parametrize("size", ["", "_3x5"])
def test_kohya_npz(tmp_path, size):
    path, latent = tmp_path / "photo_0024x0040_sd.npz", stored(4)
    arrays = {
        f"latents{size}": latent[0],
        f"original_size{size}": np.array([640, 480]),
        f"crop_ltrb{size}": np.array([0, 0, 640, 480]),
        f"latents_flipped{size}": latent[0, :, :, ::-1],
        f"alpha_mask{size}": np.ones((24, 40), np.float32),
    }
    np.savez(path, **arrays)
    for config in (TAESD, SDXL):
        check(path, from_vae_latents(nhwc(latent), config=config), config)
    # original_size is that of the photograph before it was resized.
    assert read_latent(path, config=TAESD).image_size == (24, 40)
    flipped = from_vae_latents(nhwc(latent)[:, :, ::-1], config=TAESD)
    check(path, flipped, TAESD, key=f"latents_flipped{size}")


def test_kohya_of_several_sizes_asks_for_a_key(tmp_path):
    arrays = {f"{name}_{size}": stored(4)[0] for name in ("latents", "crop_ltrb") for size in
              ("3x5", "6x8")}  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(MediaFileError, match="latents_3x5.*latents_6x8.*--key"):
        read_latent(tmp_path / "x.npz", config=TAESD)
    expected = from_vae_latents(nhwc(stored(4)), config=TAESD)
    check(tmp_path / "x.npz", expected, TAESD, key="latents_3x5")
    with pytest.raises(MediaFileError, match="'nothing'.*latents_3x5"):
        read_latent(tmp_path / "x.npz", config=TAESD, key="nothing")


def test_kohya_safetensors(tmp_path):
    path, latent = tmp_path / "x.safetensors", stored(16)
    metadata = {"architecture": "sd3", "width": "640", "height": "480", "crop_ltrb_3x5": "0,0,9,9"}
    tensors = {"latents_3x5_bf16": latent[0], "latents_flipped_3x5_bf16": latent[0]}
    save_file(tensors, path, metadata=metadata)
    check(path, from_vae_latents(nhwc(latent), config=SD3), SD3)


def test_kohya_scales_latents_of_flux_itself(tmp_path):
    latent = stored(16)
    np.savez(tmp_path / "x.npz", latents_3x5=latent[0], original_size_3x5=np.array([40, 24]))
    check(tmp_path / "x.npz", nhwc(latent), FLUX)


def test_raw_says_what_other_files_do_not(tmp_path):
    latent = stored(4)
    save_file({"latents": latent}, tmp_path / "x.safetensors")
    check(tmp_path / "x.safetensors", nhwc(latent), TAESD)
    check(tmp_path / "x.safetensors", from_vae_latents(nhwc(latent), config=TAESD), TAESD, raw=True)
    np.save(tmp_path / "x.npy", stored(32))
    with pytest.raises(MediaFileError, match="taef2.*raw_latent_scale"):
        read_latent(tmp_path / "x.npy", config=VARIANTS["taef2"], raw=True)


def test_latents_that_are_in_model_space_are_not_scaled_again(tmp_path):
    write_latent(tmp_path / "x.npz", nhwc(stored(4)), config=TAESD)
    with pytest.raises(MediaFileError, match="model space.*--raw"):
        read_latent(tmp_path / "x.npz", config=TAESD, raw=True)


@pytest.mark.oracle
class TestTorch:
    def test_tensors_and_dicts(self, tmp_path):
        torch = pytest.importorskip("torch")
        path, latent = tmp_path / "x.pt", stored(4, n=2)
        for content in (
            torch.from_numpy(latent),
            torch.nn.Parameter(torch.from_numpy(latent)),
            {"samples": torch.from_numpy(latent), "seed": 3},
        ):
            torch.save(content, path)
            check(path, nhwc(latent), TAESD)
        torch.save(torch.from_numpy(latent).bfloat16(), path)
        check(path, nhwc(torch.from_numpy(latent).bfloat16().float().numpy()), TAESD)

    def test_what_is_no_tensor_is_refused_and_not_run(self, tmp_path):
        torch = pytest.importorskip("torch")

        class Trap:
            def __reduce__(self):
                return print, ("pwned",)

        for content in (Trap(), [1, 2], {"a": 1}, torch.zeros(1, 4, 3, 5, dtype=torch.int64)):
            torch.save(content, tmp_path / "x.pt")
            with pytest.raises(MediaFileError, match=r"x\.pt: expected"):
                read_latent(tmp_path / "x.pt", config=TAESD)
        torch.save(torch.zeros(1).expand(1, 4, 4096, 4096), tmp_path / "x.pt")
        with pytest.raises(MediaFileError, match=r"x\.pt: unpacks to 268435456 bytes"):
            read_latent(tmp_path / "x.pt", config=TAESD)

    def test_without_torch(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        (tmp_path / "x.pt").write_bytes(b"")
        with pytest.raises(MediaFileError, match=r"x\.pt: \.pt files need torch"):
            read_latent(tmp_path / "x.pt", config=TAESD)
