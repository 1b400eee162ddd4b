"""The command, as a user runs it."""

import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from models import SMALL, random_model
from PIL import Image
from video_models import narrow, random_params

import taesd_jax
from taesd_jax.cli import main
from taesd_jax.io import psnr, read_image, to_uint8, write_image
from taesd_jax.video import VIDEO_VARIANTS, save_video


@pytest.fixture
def folder(working_folder):
    """An empty working folder with a small model in it."""
    params, config = random_model(SMALL)
    taesd_jax.save("m.safetensors", params, config, format="flax")
    return working_folder


@pytest.fixture
def photo(folder, photos):
    """A photograph of 37 x 21 pixels, which 8 does not divide."""
    write_image("cat.png", photos["cat"][100:121, 100:137])
    return folder / "cat.png"


def run(capsys, *args, status=0):
    assert main([*map(str, args)]) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def refuse(capsys, message, *args, status=1):
    err = run(capsys, *args, status=status)
    assert re.search(message, err), err
    assert err.startswith("taesd-jax: error: ")
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("format_", ["npz", "npy", "safetensors", "png"])
def test_encode_then_decode(capsys, photo, format_):
    out = run(capsys, "encode", photo, "--model", "m.safetensors", "--format", format_)
    assert re.search(rf"cat\.m\.latent\.{format_}\b.*3x5x4", out)
    latent = photo.with_name(f"cat.m.latent.{format_}")
    out = run(capsys, "decode", latent, "--model", "m.safetensors")
    size = "40x24" if format_ == "npy" else "37x21"
    assert re.search(rf"cat\.m\.decoded\.png\b.*{size}", out)
    decoded = read_image(photo.with_name("cat.m.decoded.png"))
    vae = taesd_jax.AutoencoderTiny.from_pretrained("m.safetensors")
    image = read_image(photo)
    padded = np.pad(image, ((0, 3), (0, 3), (0, 0)), mode="edge")[None]
    expected = np.asarray((vae(padded) if format_ == "png" else vae.decode(
        vae.encode(padded).latents)).sample)[0]  # fmt: skip
    h, w = decoded.shape[:2]
    difference = to_uint8(decoded).astype(int) - to_uint8(expected[:h, :w])
    # A rounding to 8 bits may fall the other way where XLA fused another program.
    assert np.abs(difference).max() <= 1


def test_roundtrip_writes_both_side_by_side(capsys, photo):
    out = run(capsys, "roundtrip", photo, "--model", "m.safetensors", "-o", "both.png")
    both, image = read_image("both.png"), read_image(photo)
    assert both.shape == (21, 74, 3)
    np.testing.assert_array_equal(both[:, :37], image)
    reported = float(re.search(r"37x21.*PSNR (-?[\d.]+) dB", out)[1])
    assert reported == pytest.approx(psnr(image, both[:, 37:]), abs=0.005)


def test_a_terminal_sees_what_is_under_way(capsys, photo, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (photo.parent / "a.png").write_text("no image")
    assert main(["encode", "a.png", "cat.png", "--model", "m.safetensors"]) == 1
    out, err = capsys.readouterr()
    assert "cat.m.latent.npz" in out
    assert re.search(r"loading m\.safetensors.*\r\x1b\[Ktaesd-jax: error: .*a\.png", err)
    assert re.search(r"cat\.png: compiling for 37x21\r\x1b\[K$", err)
    assert main(["encode", "cat.png", "--model", "m.safetensors", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_several_images_and_globs(capsys, photo):
    shutil.copy(photo, "dog.png")
    out = run(capsys, "encode", "*.png", "cat.png", "--model", "m.safetensors", "-o", "out/")
    assert "[1/2] out/cat.m.latent.npz" in out
    assert "[2/2] out/dog.m.latent.npz" in out
    assert sorted(os.listdir("out")) == ["cat.m.latent.npz", "dog.m.latent.npz"]
    run(capsys, "decode", "out/*.npz", "--model", "m.safetensors", "-o", "out")
    assert sorted(os.listdir("out"))[1::2] == ["cat.m.latent.npz", "dog.m.latent.npz"]
    assert sorted(os.listdir("out"))[::2] == ["cat.m.decoded.png", "dog.m.decoded.png"]


def test_one_broken_image_does_not_stop_the_others(capsys, photo):
    (photo.parent / "a.png").write_text("no image")
    assert main(["encode", "a.png", "cat.png", "--model", "m.safetensors"]) == 1
    out, err = capsys.readouterr()
    assert "[2/2] m.latent/cat.m.latent.npz" in out
    assert err.count("\n") == 1
    assert err.startswith("taesd-jax: error: [1/2] a.png: ")
    assert os.listdir("m.latent") == ["cat.m.latent.npz"]


def test_links_in_a_loop_and_pipes_do_not_stop_the_others(capsys, photo):
    os.symlink("loop.jpg", "loop.jpg")
    os.mkfifo("pipe.npy")
    args = ["loop.jpg", "pipe.npy", photo, "--model", "m.safetensors", "-o", "out/"]
    err = run(capsys, "encode", *args, status=1)
    assert "loop.jpg" in err.splitlines()[0]
    assert re.search(r"pipe\.npy.*pipe", err.splitlines()[1])
    assert len(os.listdir("out")) == 1


def test_a_batch_of_latents_gives_numbered_images(capsys, folder):
    np.save("z.npy", np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32))
    run(capsys, "decode", "z.npy", "--model", "m.safetensors", "-o", "z.png")
    assert sorted(p for p in os.listdir() if p.endswith("png")) == ["z-0.png", "z-1.png"]


def test_axes_of_latents(capsys, folder):
    z = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    np.save("nhwc.npy", z)
    np.save("nchw.npy", z.transpose(0, 3, 1, 2))
    model = ["--model", "m.safetensors"]
    run(capsys, "decode", "nhwc.npy", *model, "-o", "a.png")
    for options in ([], ["--data-format", "nchw"]):
        run(capsys, "decode", "nchw.npy", *options, *model, "-o", "b.png")
        np.testing.assert_array_equal(read_image("a.png"), read_image("b.png"))
    message = r"nhwc\.npy: .*\(1, 2, 3, 4\) .*NCHW; it is NHWC"
    refuse(capsys, message, "decode", "nhwc.npy", "--data-format", "nchw", *model)
    np.save("square.npy", np.zeros((1, 4, 3, 4), np.float32))
    refuse(capsys, r"square\.npy: .*--data-format", "decode", "square.npy", *model)
    run(capsys, "decode", "square.npy", "--data-format", "nhwc", *model)


def test_latents_of_another_model_are_refused_with_its_name(capsys, photo):
    params, config = random_model(SMALL)
    for scale in (0.18215, 0.13025):
        labelled = config.replace(raw_latent_scale=scale, raw_latent_shift=0.0)
        taesd_jax.save(f"m{scale}.safetensors", params, labelled, format="flax")
    for suffix in ("npz", "safetensors", "png"):
        latent = f"z.{suffix}"
        run(capsys, "encode", photo, "-o", latent, "--model", "m0.13025.safetensors")
        advice = r"made by m0\.13025\.safetensors.*--model m0\.13025\.safetensors"
        refuse(capsys, f"z.{suffix}: {advice}", "decode", latent, "--model", "m0.18215.safetensors")
        refuse(capsys, f"z.{suffix}: {advice}", "decode", latent)  # small
        run(capsys, "decode", latent, "--model", "m0.13025.safetensors")


def test_another_encoder_of_an_unknown_latent_space_is_warned_of(capsys, photo):
    params, config = random_model(SMALL)
    other = jax.tree.map(lambda p: p * 0.5, params)
    taesd_jax.save("other.safetensors", other, config, format="flax")
    run(capsys, "encode", photo, "-o", "z.npz", "--model", "m.safetensors")
    main(["decode", "z.npz", "--model", "m.safetensors"])
    assert capsys.readouterr().err == ""
    main(["decode", "z.npz", "--model", "other.safetensors"])
    assert re.fullmatch(r"taesd-jax: warning: z\.npz: made by m\.safetensors .*\n",
                        capsys.readouterr().err)  # fmt: skip


def test_latents_of_the_full_vae(capsys, folder):
    params, config = random_model(SMALL)
    labelled = config.replace(raw_latent_scale=0.18215, raw_latent_shift=0.0)
    taesd_jax.save("sd.safetensors", params, labelled, format="flax")
    z = np.random.default_rng(0).standard_normal((1, 5, 6, 4)).astype(np.float32)
    np.save("model.npy", z)
    np.savez("raw.npz", a=z / np.float32(0.18215), b=z)
    model = ["--model", "sd.safetensors"]
    run(capsys, "decode", "model.npy", *model, "-o", "a.png")
    refuse(capsys, r"raw\.npz.*a, b; .*--key", "decode", "raw.npz", *model)
    assert main(["decode", "raw.npz", "--key", "a", *model, "-o", "b.png"]) == 0
    assert re.search(r"warning: raw\.npz: .*--raw", capsys.readouterr().err)
    assert main(["decode", "raw.npz", "--key", "a", "--raw", *model, "-o", "b.png"]) == 0
    assert capsys.readouterr().err == ""
    difference = to_uint8(read_image("a.png")).astype(int) - to_uint8(read_image("b.png"))
    assert np.abs(difference).max() <= 1  # z / 0.18215 * 0.18215 is rounded twice
    refuse(capsys, "raw_latent_scale", "decode", "model.npy", "--raw", "--model", "m.safetensors")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_and_device(capsys, photo, dtype):
    options = "--model", "m.safetensors", "--dtype", dtype, "--device", "cpu"
    run(capsys, "encode", photo, "-o", "z.safetensors", *options)
    from safetensors import safe_open

    with safe_open("z.safetensors", framework="numpy") as file:
        assert file.get_tensor("latent").dtype.name == dtype
        assert json.loads(file.metadata()["image_size"]) == [21, 37]
    run(capsys, "decode", "z.safetensors", *options)
    refuse(capsys, "'tpu'.*cpu", "decode", "z.safetensors",
           "--model", "m.safetensors", "--device", "tpu")  # fmt: skip


def test_clipping_by_a_png_is_told(capsys, photo):
    params, config = random_model(SMALL)
    params["encoder"]["layers_14"]["bias"] += 10
    taesd_jax.save("loud.safetensors", params, config, format="flax")
    out = run(capsys, "encode", photo, "--model", "loud.safetensors", "--format", "png")
    assert re.search(r"100\.00%.*clipped", out)


def test_outputs_never_replace_inputs_or_each_other(capsys, photo):
    options = "--model", "m.safetensors"
    before = photo.read_bytes()
    refuse(capsys, r"cat\.png.*input", "roundtrip", photo, "-o", photo, *options)
    os.mkdir("other")
    shutil.copy(photo, "other/cat.png")
    message = r"cat\.png.*other/cat\.png.*out/cat\.m\.latent\.npz"
    refuse(capsys, message, "encode", "cat.png", "other/cat.png", "-o", "out", *options)
    args = ["encode", "cat.png", "other/cat.png", "-o", "m.safetensors", *options]
    refuse(capsys, r"m\.safetensors.*2 .*folder", *args, status=2)
    assert photo.read_bytes() == before
    assert not os.path.exists("out")


def test_format_and_output_must_agree(capsys, photo):
    options = "--model", "m.safetensors"
    args = ["encode", photo, "-o", "z.npy", "--format", "png", *options]
    refuse(capsys, r"z\.npy.*\.png", *args, status=2)
    run(capsys, "encode", photo, "-o", "z.npy", *options)
    assert np.load("z.npy").shape == (1, 3, 5, 4)


def test_patterns_leave_out_our_own_results(capsys, photo):
    options = "--model", "m.safetensors"
    for _ in range(2):
        out = run(capsys, "roundtrip", "*.png", *options)
        assert re.match(r"cat\.png\b.*37x21", out)
        run(capsys, "roundtrip", "cat.png", *options)
    run(capsys, "encode", "*.png", "./cat.png", "--format", "png", *options)
    assert os.listdir("m.roundtrip") == ["cat.m.roundtrip.png"]
    assert os.listdir("m.latent") == ["cat.m.latent.png"]
    assert os.path.exists("cat.m.roundtrip.png")


def test_errors_of_any_kind_stay_one_line(capsys, folder, monkeypatch):
    from taesd_jax.cli import options

    def fail(source):
        raise MemoryError("too\nmuch")

    monkeypatch.setattr(options, "load_checkpoint", fail)
    np.save("z.npy", np.zeros((1, 2, 2, 4), np.float32))
    assert refuse(capsys, "MemoryError: too", "decode", "z.npy", "--model", "x")
    with pytest.raises(MemoryError):
        main(["--debug", "decode", "z.npy", "--model", "x"])


def test_config_warnings_are_one_line(capsys, folder):
    taesd_jax.save("d", *random_model(SMALL))
    fields = json.loads((folder / "d" / "config.json").read_text()) | {"sampel": 1}
    (folder / "d" / "config.json").write_text(json.dumps(fields))
    assert main(["info", "d"]) == 0
    err = capsys.readouterr().err
    assert re.fullmatch(r"taesd-jax: warning: .*\['sampel'\]\n", err)


def test_errors_are_one_line(capsys, photo):
    photo.with_name("cat.jpg").touch()
    for message, args in (
        (r"'\./nothing'", ["roundtrip", "cat.png", "--model", "./nothing"]),
        (r"'x\*\.png'", ["roundtrip", "x*.png", "--model", "m.safetensors"]),
        (r"x\.png", ["roundtrip", "x.png", "--model", "m.safetensors"]),
        (r"error: x\.npy: no such file\n", ["decode", "x.npy", "--model", "m.safetensors"]),
        (r"\.npy, \.npz, \.safetensors", ["decode", "cat.jpg", "--model", "m.safetensors"]),
    ):  # fmt: skip
        assert refuse(capsys, message, *args).count("\n") == 1
    args = ["roundtrip", "cat.png", "-o", "x.zip", "--model", "m.safetensors"]
    assert refuse(capsys, r"\.zip", *args, status=2).count("\n") == 1
    with pytest.raises(taesd_jax.CheckpointNotFoundError):
        main(["info", "./nothing", "--debug"])
    with pytest.raises(SystemExit) as exit_:
        main(["explode"])
    assert exit_.value.code == 2


def test_one_component_says_so_before_any_work(capsys, photo):
    params, config = random_model(SMALL)
    del params["encoder"]
    taesd_jax.save("part", params, config, format="original")
    message = r"encoder.*part_encoder\.safetensors"
    refuse(capsys, message, "roundtrip", photo, "--model", "part")
    np.save("z.npy", np.zeros((1, 2, 2, 4), np.float32))
    run(capsys, "decode", "z.npy", "--model", "part")


def test_a_latent_that_lies_about_its_image(capsys, folder):
    np.savez("z.npz", latent=np.zeros((1, 2, 2, 4), np.float32), image_size=np.array([17, 9]))
    message = r"z\.npz.*9x17.*16x16"
    refuse(capsys, message, "decode", "z.npz", "--model", "m.safetensors")


def says(out, *words):
    """Whether one line has all the words."""
    return any(all(word in line for word in words) for line in out.splitlines())


def test_a_batch_does_not_clash_with_the_name_of_one(capsys, folder):
    rng = np.random.default_rng(0)
    for name, n in (("one", 1), ("two", 2)):
        np.save(f"{name}.npy", rng.standard_normal((n, 2, 3, 4)).astype(np.float32))
    (folder / "x.png").write_bytes(b"of the user's")
    args = ["--model", "m.safetensors", "-o", "x.png"]
    refuse(capsys, "x.png exists", "decode", "one.npy", *args)
    run(capsys, "decode", "two.npy", *args)
    assert sorted(p for p in os.listdir() if p.endswith("png")) == ["x-0.png", "x-1.png", "x.png"]


def test_a_folder_stands_for_its_latents(capsys, photo):
    options = "--model", "m.safetensors"
    (photo.parent / "z" / "more").mkdir(parents=True)
    run(capsys, "encode", photo, *options, "-o", "z/a.png")
    run(capsys, "encode", photo, *options, "-o", "z/b.safetensors")
    run(capsys, "encode", photo, *options, "-o", "z/more/c.npz")
    shutil.copy(photo, "z")
    shutil.copy("m.safetensors", "z")
    out = run(capsys, "decode", "z", *options)
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "[1/3] m.decoded/a.m.decoded.png",
        "[2/3] m.decoded/b.m.decoded.png",
        "[3/3] m.decoded/more/c.m.decoded.png",
    ]
    os.mkdir("empty")
    refuse(capsys, "no latents in 'empty'", "decode", "empty", *options)


def test_a_scale_that_the_model_lacks(capsys, folder):
    np.save("z.npy", np.zeros((1, 2, 3, 4), np.float32))
    args = "decode", "z.npy", "--model", "m.safetensors", "--scale", "1/16"
    refuse(capsys, "--scale .* 1, 1/2, 1/4, 1/8, got 1/16", *args, status=2)


def test_models_of_video_are_named(capsys, folder):
    for config, name in (
        (narrow("taew2_2_super"), "not a published one"),
        (VIDEO_VARIANTS["taew2_2"], "taew2_2"),
    ):
        save_video("v.safetensors", random_params(config), config)
        out = run(capsys, "info", "v.safetensors")
        assert says(out, "video variant", name)
        assert says(out, "latent", f"{config.latent_channels} channels", "1/16")
        assert says(out, "decoder", "parameters", "float32")
        report = json.loads(run(capsys, "info", "v.safetensors", "--json"))
        assert report["components"].keys() == {"encoder", "decoder"}
    refuse(capsys, "decode-video", "convert", "v.safetensors", "x")


def test_info(capsys, folder):
    out = run(capsys, "info", "m.safetensors")
    assert says(out, "variant", "not a published one")
    assert says(out, "format", "flax")
    assert says(out, "latent", "4 channels", "1/8")
    report = json.loads(run(capsys, "info", "m.safetensors", "--json"))
    assert report["components"]["encoder"]["dtype"] == "float32"
    assert report["config"]["encoder_block_out_channels"] == [8, 8, 8, 8]
    params = taesd_jax.init(jax.random.key(0), config=taesd_jax.VARIANTS["taesd"])
    del params["decoder"]
    taesd_jax.save("x", params, taesd_jax.AutoencoderTinyConfig(), format="original")
    out = run(capsys, "info", "x")
    assert says(out, "variant", "taesd or taesdxl")
    assert says(out, "encoder", "1,222,532 parameters", "float32")
    assert says(out, "decoder", "absent", "x_decoder.safetensors")


def test_convert_between_layouts(capsys, folder):
    params, _ = random_model(SMALL)
    run(capsys, "convert", "m.safetensors", "d")
    run(capsys, "convert", "d", "o", "--to", "original")
    run(capsys, "convert", "o", "c.safetensors", "--to", "comfyui", "--variant", "taesd", status=1)
    run(capsys, "convert", "o", "f.safetensors")
    out = run(capsys, "convert", "f.safetensors", "h.safetensors", "--dtype", "bfloat16")
    assert says(out, "h.safetensors", "flax from flax")
    again = taesd_jax.load("f.safetensors").params
    jax.tree.map(np.testing.assert_array_equal, again, params)
    stored = taesd_jax.load("h.safetensors").params
    assert {p.dtype.name for p in jax.tree.leaves(stored)} == {"bfloat16"}
    assert sorted(os.listdir("d")) == ["config.json", "diffusion_pytorch_model.safetensors"]
    for target, format in (("x.safetensors", "original"), ("x.pth", "pth"), ("x.PTH", None)):
        args = ["convert", "d", target, *(["--to", format] if format else [])]
        refuse(capsys, rf"name {target} without \.", *args, status=2)
    loud = jax.tree.map(lambda p: p * 1e6, params)
    taesd_jax.save("loud.safetensors", loud, SMALL, format="flax")
    message = "finite"
    refuse(capsys, message, "convert", "loud.safetensors", "x", "--dtype", "float16")
    assert not os.path.exists("x")
    refuse(capsys, r"'flax'.*x .*\.safetensors",
           "convert", "d", "x", "--to", "flax", status=2)  # fmt: skip
    refuse(capsys, "d .*taesd3", "convert", "d", "x",
           "--variant", "taesd3")  # fmt: skip


@pytest.mark.process
def test_it_runs_as_a_module_and_a_script(folder, photos):
    write_image("cat.png", photos["cat"][:16, :16])
    args = ["roundtrip", "cat.png", "--model", "m.safetensors"]
    done = subprocess.run(
        [sys.executable, "-m", "taesd_jax", *args], capture_output=True, text=True, check=True
    )
    assert "PSNR" in done.stdout
    assert done.stderr == ""
    script = shutil.which("taesd-jax", path=os.path.dirname(sys.executable))
    assert script, "the script is not installed"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{taesd_jax.__version__}\n"


def test_jpeg_is_written_as_jpeg(capsys, photo):
    run(capsys, "roundtrip", photo, "--model", "m.safetensors", "-o", "x.jpg")
    with Image.open("x.jpg") as file:
        assert (file.format, file.size) == ("JPEG", (74, 21))
