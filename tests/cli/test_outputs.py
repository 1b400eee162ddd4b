"""What commands may write: never over an input, nor over a file that is not theirs."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import SMALL, random_model

import taesd_jax
from taesd_jax.cli import main
from taesd_jax.io import read_image, write_image
from taesd_jax.io.files import command_of, signature

MODEL = ("--model", "m.safetensors")


@pytest.fixture
def folder(working_folder):
    """An empty working folder with a small model, an image and a latent in it."""
    taesd_jax.save("m.safetensors", *random_model(SMALL), format="flax")
    rng = np.random.default_rng(0)
    write_image("a.png", rng.uniform(-1, 1, (16, 16, 3)).astype("f4"))
    np.save("z.npy", rng.standard_normal((1, 2, 2, 4)).astype("f4"))
    return working_folder


def refused(capsys, *args, status=1):
    """Run a command that is refused and changes no file; return its error."""
    capsys.readouterr()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main([*map(str, args)]) == status
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("encode a.png", ("x.npz", "x.safetensors", "x.png")),
        ("decode z.npy", ("x.png", "x.jpg", "x.webp", "x.tif", "x.avif")),
        ("roundtrip a.png", ("x.png", "x.jpg")),
    ],
)
def test_own_results_are_replaced_and_others_are_not(capsys, folder, command, names):
    for name in names:
        args = [*command.split(), *MODEL, "-o", name]
        assert main(args) == 0
        assert command_of(Path(name)) == command.split()[0]
        size = os.path.getsize(name)
        assert main(args) == 0
        Path(name).write_bytes(b"of the user's")
        assert "--overwrite" in refused(capsys, *args)
        assert main([*args, "--overwrite"]) == 0
        assert os.path.getsize(name) == size


def test_a_result_of_another_command_stays(capsys, folder):
    assert main(["decode", "z.npy", *MODEL, "-o", "x.png"]) == 0
    assert "x.png" in refused(capsys, "roundtrip", "a.png", *MODEL, "-o", "x.png")


@pytest.mark.parametrize("name", ["x.npy", "x.bmp", "x.gif"])
def test_formats_without_a_signature_need_overwrite(capsys, folder, name):
    args = ["decode", "z.npy", *MODEL, "-o", name]
    assert main(args) == 0
    assert "--overwrite" in refused(capsys, *args)
    assert main([*args, "--overwrite"]) == 0


def test_numbered_results_are_checked(capsys, folder):
    np.save("two.npy", np.zeros((2, 2, 2, 4), "f4"))
    Path("x-1.png").write_bytes(b"of the user's")
    assert "x-1.png" in refused(capsys, "decode", "two.npy", *MODEL, "-o", "x.png")


def test_a_signature_is_found_at_the_end_of_a_large_file(folder):
    latent = np.zeros((1, 128, 128, 4), "f4")
    taesd_jax.io.write_latent("x.npz", latent, config=SMALL, software=signature("encode"))
    assert command_of(Path("x.npz")) == "encode"
    assert taesd_jax.io.read_latent("x.npz", config=SMALL).latent.shape == latent.shape
    assert command_of(Path("a.png")) == ""


def test_inputs_of_any_option_are_never_written_over(capsys, folder):
    shutil.copy("m.safetensors", "h.safetensors")
    Path("link.png").symlink_to("a.png")
    Path("link.npz").symlink_to("m.safetensors")
    taesd_jax.save("pair", *random_model(SMALL), format="original")
    shutil.copy("z.npy", ".x.partial.npy")
    for args in (
        ["roundtrip", "a.png", *MODEL, "-o", "a.png"],
        ["roundtrip", "a.png", *MODEL, "-o", "link.png"],
        ["roundtrip", "link.png", *MODEL, "-o", "a.png"],
        ["encode", "a.png", *MODEL, "-o", "m.safetensors"],
        ["encode", "a.png", *MODEL, "-o", "link.npz"],
        ["encode", "a.png", "--model", "pair", "-o", "pair_decoder.safetensors"],
        ["decode", "z.npy", *MODEL, "--thumbnails", "t.png", "-o", "t.png"],
        ["decode", ".x.partial.npy", *MODEL, "-o", "x.npy"],
    ):
        if "--thumbnails" in args:
            Path("t.png").write_bytes(b"heads")
        assert "is an input" in refused(capsys, *args, "--overwrite")
    fit = ["fit-thumbnails", "a.png", "--held-out", "z.npy", *MODEL, "-o"]
    for target in ("a.png", "z.npy", "m.safetensors"):
        assert "is an input" in refused(capsys, *fit, target)
    run = ["train", "decoder", "a.png", "--init", "pair", "-o", "."]
    shutil.copy("pair_decoder.safetensors", "model_decoder.safetensors")
    shutil.copy("pair_encoder.safetensors", "model_encoder.safetensors")
    assert "model_decoder.safetensors exists" in refused(capsys, *run)
    run[run.index("pair")] = "model"
    assert "is an input" in refused(capsys, *run, "--overwrite")


def test_reports_replace_reports_only(capsys, folder):
    bench = ["bench", "--sizes", "8", "--peers", "none", "--rounds", "1"]
    for option in ("--json", "--plot"):
        assert "--overwrite" in refused(capsys, *bench, option, "a.png")


def test_a_conversion_in_place_is_asked_for(capsys, folder):
    args = ["convert", "m.safetensors", "m.safetensors", "--dtype", "float16"]
    assert "is an input" in refused(capsys, *args)
    assert main(["convert", "m.safetensors", "x.safetensors"]) == 0
    args[2] = "x.safetensors"
    assert "--overwrite" in refused(capsys, *args)
    assert main([*args, "--overwrite"]) == 0
    args[2] = "m.safetensors"
    assert main([*args, "--overwrite"]) == 0
    assert Path("m.safetensors").read_bytes() == Path("x.safetensors").read_bytes()
    for format, name in (
        ("diffusers", "d/config.json"),
        ("original", "d_encoder.safetensors"),
        ("pth", "d_decoder.pth"),
    ):
        Path("d").mkdir(exist_ok=True)
        Path(name).write_text("{}")
        err = refused(capsys, "convert", "m.safetensors", "d", "--to", format)
        assert f"{name} exists" in err


def test_clashes_are_found_before_the_model_is_loaded(capsys, folder):
    write_image("a.jpg", read_image("a.png"))
    none = ("--model", "./nothing")
    err = refused(capsys, "encode", "a.png", "a.jpg", *none)
    assert "a.png and a.jpg" in err
    err = refused(capsys, "encode", "a.png", "a.jpg", *none, "-o", "x.npz", status=2)
    assert "x.npz is one file for 2 inputs" in err
    assert "-o x/" in err
    err = refused(capsys, "encode", "a.png", *none, "-o", "x", status=2)
    assert "-o x/" in err
    assert main(["encode", "a.png", *MODEL, "-o", "x/"]) == 0
    assert os.listdir("x") == ["a.m.latent.npz"]
    err = refused(capsys, "decode", "z.npy", *none, "-o", "x.npy", "--scale", "1/2", status=2)
    assert "x.npy" in err


@pytest.mark.parametrize(
    "args",
    [
        ["encode", "a.png", "-o", ""],
        ["bench", "--json", ""],
        ["convert", "m.safetensors", ""],
        ["train", "decoder", "a.png", "-o", ""],
    ],
)
def test_an_empty_name_is_a_usage_error(capsys, folder, args):
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert "expected the name of a file" in capsys.readouterr().err


def test_a_folder_stands_for_its_images_and_not_for_results(capsys, folder):
    Path("photos/more").mkdir(parents=True)
    shutil.move("a.png", "photos/a.png")
    write_image("photos/more/b.JPG", read_image("photos/a.png"))
    Path("photos/notes.txt").write_text("no image")
    for _ in range(2):
        assert main(["roundtrip", "photos", *MODEL]) == 0
        assert main(["roundtrip", "photos/a.png", *MODEL, "-o", "photos/both.png"]) == 0
        assert main(["encode", "photos/", "photos/*.png", *MODEL, "--format", "png"]) == 0
        assert main(["decode", "m.latent", *MODEL, "-o", "photos"]) == 0
        out = capsys.readouterr().out
        assert "[2/2] m.latent/more/b.m.latent.png" in out
        assert "[2/2] photos/more/b.m.decoded.png" in out
    Path("empty").mkdir()
    assert "no images in 'empty'" in refused(capsys, "encode", "empty", *MODEL)


def test_one_file_under_two_names_is_named(capsys, folder):
    Path("link.png").symlink_to("a.png")
    os.link("a.png", "hard.png")
    args = ["encode", "a.png", "./a.png", "link.png", "hard.png", *MODEL, "-o", "out/"]
    assert main(args) == 0
    assert os.listdir("out") == ["a.m.latent.npz"]
    err = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in err] == [
        f"taesd-jax: warning: {name} and a.png are one file" for name in ("link.png", "hard.png")
    ]


def test_names_tell_versions_of_a_model_apart(folder):
    for name in ("v1.5", "v1.6"):
        taesd_jax.save(name, *random_model(SMALL), format="original")
        assert main(["encode", "a.png", "--model", f"./{name}"]) == 0
    assert {path.name for path in Path().glob("a.*.npz")} == {
        "a.v1.5.latent.npz",
        "a.v1.6.latent.npz",
    }


def test_hidden_files_of_a_folder_are_no_inputs(folder):
    for name in ("in/.a.npy", "in/b.npy", "in/.c/d.npy"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("z.npy", name)
    shutil.copy("a.png", "in/._a.png")
    assert main(["decode", "in", *MODEL, "-o", "out/"]) == 0
    assert [path.name for path in Path("out").iterdir()] == ["b.m.decoded.png"]
    assert main(["encode", "in", *MODEL, "-o", "latents/"]) == 1


def test_a_folder_says_what_it_leaves_out(capsys, folder):
    Path("in").mkdir()
    shutil.copy("z.npy", "in/z.npy")
    shutil.copy("m.safetensors", "in/other.safetensors")
    assert main(["decode", "in", *MODEL, "-o", "out/"]) == 0
    assert "in/other.safetensors" in capsys.readouterr().err


def test_folders_beside_each_other_stay_within_the_output(folder):
    Path("here").mkdir()
    Path("there").mkdir()
    shutil.copy("a.png", "here/a.png")
    shutil.copy("a.png", "there/b.png")
    os.chdir("here")
    args = ["encode", ".", "../there", "--model", "../m.safetensors", "-o", "out/"]
    assert main(args) == 0
    assert {path.name for path in Path("out").iterdir()} == {
        "a.m.latent.npz",
        "b.m.latent.npz",
    }
