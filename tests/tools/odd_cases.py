"""Bad and odd inputs of the command, for odd_inputs.py."""

import io
import itertools
import json
import os
import shlex
import sys
import zipfile

import numpy as np
from hostile import MUTATIONS
from models import SMALL, random_model
from odd_inputs import Case
from PIL import Image

import taesd_jax

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (19, 27, 3), dtype=np.uint8)
OPTIONS = ("--model", "../m.safetensors")
HTML, POINTER = b"<!DOCTYPE html><html>404", b"version https://git-lfs.github.com/spec/v1\noid x\n"
GGUF, ONNX = b"GGUF\x03\0\0\0" + bytes(64), b"\x08\x07\x12\x07pytorch" + bytes(64)
STRANGERS = {"html": HTML, "pointer": POINTER, "empty": b"", "nul": bytes(99), "gguf": GGUF}


def image_bytes(kind, mode="RGB", **options):
    image = Image.fromarray(PHOTO).convert("L" if mode == "F" else "RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def latent(*shape, dtype="f4"):
    return (np.random.default_rng(1).standard_normal(shape or (1, 2, 3, 4)) / 2).astype(dtype)


def tensors(metadata=None, **arrays):
    from safetensors.numpy import save

    return save(arrays, metadata=metadata)


def model_bytes():
    return tensors(**taesd_jax.weights.serialise(*random_model(SMALL), format="flax")[""])


SHARED = {
    "m.safetensors": lambda path: taesd_jax.save(path, *random_model(SMALL), format="flax"),
    "pair": lambda path: taesd_jax.save(path, *random_model(SMALL), format="original"),
    "a.png": image_bytes("PNG"),
    "z.npy": npy(latent()),
}


def image_cases():
    """Yield (name, content, whether it works)."""
    png, jpeg = image_bytes("PNG"), image_bytes("JPEG")
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        yield f"a.{kind.lower()}", image_bytes(kind), True
        yield f"a.{kind}", image_bytes(kind), True
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "F", "I"):
        kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
        yield f"mode-{mode}.{kind.lower()}", image_bytes(kind, mode), mode not in ("F", "I")
    for name in ("wrong.jpg", "none", "x.PnG", " .png", "-x.png", "[a].png", "a*.png"):
        yield name, png, True
    yield "\u732b.png", png, True
    for name in ("\x1b[31m.png", "a\nb.png", "%s{0}.png", "'\".png", "~.png", "\udcff.png"):
        yield name, png, True
    for size in (0, 1, 8, 33, 60, len(png) // 2, len(png) - 60):
        yield f"cut-{size}.png", png[:size], False
        yield f"cut-{size}.jpg", jpeg[:size] if size < 600 else jpeg[:300], False
    for name, content in STRANGERS.items():
        for suffix in ("png", "jpg", "tif", "gif", "webp", "npy"):
            yield f"{name}.{suffix}", content, False
    for side in ((1, 1), (1, 40), (40, 1), (8, 8), (7, 9)):
        buffer = io.BytesIO()
        Image.new("RGB", side).save(buffer, "PNG")
        yield f"size-{side[0]}-{side[1]}.png", buffer.getvalue(), True
    bomb = bytearray(png)
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    yield "bomb.png", bytes(bomb), False


def latent_cases():
    """Yield (name, content, whether it works)."""
    for dtype in ("f2", "f4", "f8", ">f4", ">f8"):
        yield f"{dtype[-2:]}{len(dtype)}.npy", npy(latent(dtype=dtype)), True
    for dtype in ("i1", "u1", "i4", "i8", "?", "c8", "U3", "S2", "M8[s]", "V4"):
        yield f"dtype-{dtype[0]}{dtype[-1]}.npy", npy(np.zeros((1, 2, 3, 4), dtype)), False
    for shape in ((), (4,), (2, 4), (1, 1, 2, 3, 4), (0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 3, 0)):
        yield f"rank-{len(shape)}-{np.prod(shape):.0f}.npy", npy(np.zeros(shape, "f4")), False
    for shape in ((1, 2, 3, 5), (1, 2, 3, 16), (1, 5, 6, 7), (2, 3, 3), (1, 2, 3, 32), (8, 8, 1)):
        yield f"channels-{'x'.join(map(str, shape))}.npy", npy(latent(*shape)), False
    for shape in ((2, 3, 4), (1, 1, 1, 4), (3, 2, 2, 4), (1, 4, 2, 3), (4, 2, 3)):
        yield f"shape-{'x'.join(map(str, shape))}.npy", npy(latent(*shape)), True
    for value in (np.nan, np.inf, -np.inf, 1e300, -1e39):
        odd = latent(dtype="f8")
        odd[0, 0, 0, 0] = value
        yield f"value-{value}.npy", npy(odd), False
        yield f"value-{value}.npz", npz(latent=odd), False
    whole = npy(latent())
    yield "order.npy", npy(np.asfortranarray(latent())), True
    yield "object.npy", npy(np.array([latent(), None], object), allow_pickle=True), False
    yield "huge.npy", whole.replace(b"(1, 2, 3, 4)", b"(9999999999,)"), False
    for cut in (0, 5, 60, 127, len(whole) - 1):
        yield f"cut-{cut}.npy", whole[:cut], False
        yield f"cut-{cut}.npz", npz(latent=latent())[:cut], False
    for other in ("npz", "safetensors", "png", "latent", "pt", "pth"):
        yield f"renamed.{other}", whole, False
    for one, content in STRANGERS.items():
        for suffix in ("npy", "npz", "safetensors", "png", "latent", "pt"):
            yield f"{one}.{suffix}", content, False
    for size in ([15, 20], [16, 24], [9, 17]):
        yield f"size-{size[0]}.npz", npz(latent=latent(), image_size=np.array(size)), True
    for i, size in enumerate(
        ([0, 9], [-1, 9], [17, 9], [9], [9.5, 9], [2**62, 9], [[9, 9]], "ab", [True, True], 9)
    ):
        yield f"lie-{i}.npz", npz(latent=latent(), image_size=np.array(size)), False
        text = {"image_size": json.dumps(size)}
        yield f"lie-{i}.safetensors", tensors(text, latent=latent()), False
    yield "text.safetensors", tensors({"image_size": "{"}, latent=latent()), False
    yield "two.npz", npz(a=latent(), b=latent()), False
    yield "none.npz", npz(), False
    yield "other.npz", npz(anything=latent()), True
    yield "model.safetensors", model_bytes(), False
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        header = io.BytesIO()
        fields = {"descr": "<f4", "fortran_order": False, "shape": (1, 2048, 2048, 4)}
        np.lib.format.write_array_header_1_0(header, fields)
        file.writestr("latent.npy", header.getvalue() + bytes(2**26))
    yield "bomb.npz", packed.getvalue(), False
    for mode in ("RGB", "L", "P", "LA"):
        yield f"mode-{mode}.png", image_bytes("PNG", mode), False
    yield "opaque.png", image_bytes("PNG", "RGBA"), False


def weight_cases():
    """Yield (name, content)."""
    raw = model_bytes()
    for i, mutate in itertools.product(range(5), MUTATIONS):
        yield f"{mutate.__name__}-{i}.safetensors", mutate(raw, np.random.default_rng(i))
    for name, content in {**STRANGERS, "onnx": ONNX}.items():
        for suffix in ("safetensors", "pth", "gguf", "onnx", "ckpt", "bin"):
            yield f"{name}.{suffix}", content


OPTION_VALUES = {
    "bench": {
        "--sizes": ("0", "-8", "9", "x", "1e3", ""),
        "--batch": ("0", "-1", "x"),
        "--rounds": ("0", "-1", "1.5"),
        "--threads": ("0", "-1", "x"),
        "--dtypes": ("float64", ""),
        "--variants": ("taesd9", ""),
        "--peers": ("x",),
        "--json": ("",),
        "--plot": ("", "x.xyz"),
    },
    "encode ../a.png": {
        "--format": ("jpg", "NPZ", ""),
        "--dtype": ("float64", "int8", ""),
        "--device": ("cuda", ""),
        "-o": ("", "x.zip", "x"),
        "--nothing": ("1",),
    },
    "decode ../z.npy": {
        "--scale": ("2", "0", "1/3", "-1", ""),
        "--data-format": ("HWC", ""),
        "--dtype": ("half",),
        "-o": ("", "x.zip", "x", "x.npz"),
    },
    "roundtrip ../a.png": {"-o": ("", "x.npy", "x.eps", "x.pdf")},
    "compare ../m.safetensors --images ../a.png": {"--side": ("0", "-1", "x")},
    "fit-thumbnails ../a.png -o t.safetensors": {"--side": ("0", "-1", "1e9")},
    "convert ../m.safetensors x": {
        "--to": ("onnx", "flax", "comfyui"),
        "--variant": ("x",),
        "--dtype": ("int8",),
    },
    "verify ../m.safetensors": {"--seed": ("x", "1.5")},
    "train decoder ../a.png --init ../m.safetensors -o run": {
        **dict.fromkeys(
            ("--steps", "--batch-size", "--crop-size", "--eval-every", "--log-every"),
            ("0", "-1", "1.5", "x", "nan"),
        ),
        **dict.fromkeys(("--learning-rate", "--ema-decay"), ("nan", "inf", "-1", "x")),
        "--eval-size": ("0", "-1", "x"),
        "--losses": ("x", "mse=", "mse=nan", "mse=-1", "mse=x", "=1"),
        "--optimizer": ("sgd",),
        "--widths": ("0", "x", "-1"),
        "--num-crops": ("-1", "0", "1e11", "x"),
        "--crop-size": ("0", "-8", "1e9", "7"),
        "--batch-size": ("100000000", "0"),
    },
}


def option_cases():
    for command, options in OPTION_VALUES.items():
        group = "training" if command.startswith("train") else "options"
        for option, values in options.items():
            for value in values:
                words = [*command.split(), option, value]
                # What only the teacher tells is no matter of the command line alone.
                yield Case(group, words, (1, 2) if value in ("100000000", "7") else 2)
    for words in ([], ["x"], ["encode"], ["decode", "--model"], ["info"], ["train", "x", "y"]):
        yield Case("options", words, 2)
    for words in (["--help"], ["--version"], ["encode", "--help"], ["train", "--help"]):
        yield Case("options", words, 0)
    for name in ("", ".", "..", "/", "~", "x/y/z", "a\0b", "x" * 5000, "\x1b[31m", "taesd9"):
        yield Case("weights", ["info", name], (1, 2))


def output_cases(shared):
    model, user = OPTIONS[1], b"of the user's"
    jobs = (["encode", "../a.png"], ["decode", "../z.npy"], ["roundtrip", "../a.png"])
    for job, suffix in itertools.product(jobs, (".png", ".npz", ".jpg", ".npy", ".tif")):
        name = f"x{suffix}"
        yield Case("outputs", [*job, *OPTIONS, "-o", name], (1, 2), {name: user})
        link = {name: user, "l" + suffix: lambda p, n=name: p.symlink_to(n)}
        yield Case("outputs", [*job, *OPTIONS, "-o", "l" + suffix], (1, 2), link)
    for job in jobs:
        suffix = ".npz" if job[0] == "encode" else ".png"
        loop = {f"x{suffix}": lambda p: p.symlink_to(p.name)}
        yield Case("outputs", [*job, *OPTIONS, "-o", f"x{suffix}"], 1, loop)
        pipe = {f"x{suffix}": os.mkfifo}
        yield Case("outputs", [*job, *OPTIONS, "-o", f"x{suffix}"], 1, pipe)
        folder = {f"x{suffix}/y": user}
        yield Case("outputs", [*job, *OPTIONS, "-o", f"x{suffix}"], 0, folder)
        yield Case("outputs", [*job, *OPTIONS, "-o", f"f/x{suffix}"], 1, {"f": user})
        yield Case("outputs", [*job, *OPTIONS, "-o", "f/"], 1, {"f": user})
        yield Case("outputs", [*job, *OPTIONS, "-o", f"/proc/x{suffix}"], 1)
        yield Case("outputs", [*job, *OPTIONS, "-o", f"/dev/null{suffix}"], (0, 1))
        yield Case("outputs", [*job, *OPTIONS, "-o", "x" * 300 + suffix], 1)
        yield Case("outputs", [*job, *OPTIONS, "-o", job[1], "--overwrite"], (1, 2))
        yield Case("outputs", [*job, *OPTIONS, "-o", model, "--overwrite"], (1, 2))
        two = [*job, "b.png", *OPTIONS, "-o", f"x{suffix}"]
        yield Case("outputs", two, 2, {"b.png": SHARED["a.png"]})
        yield Case("outputs", [*job, *OPTIONS, "-o", f"new/deep/x{suffix}"], 0)
    clash = {"a.png": SHARED["a.png"], "a.jpg": image_bytes("JPEG")}
    yield Case("outputs", ["encode", "a.png", "a.jpg", *OPTIONS], 1, clash)
    for target in ("../a.png", model, "x.json", "l.json"):
        files = {"x.json": b"{}", "l.json": lambda p: p.symlink_to("x.json")}
        for option in ("--json", "--plot"):
            yield Case("outputs", ["bench", "--sizes", "8", option, target], (1, 2), files)
        yield Case("outputs", ["convert", "../m.safetensors", target], (1, 2), files)
        fit = ["fit-thumbnails", "../a.png", *OPTIONS, "-o", target]
        yield Case("outputs", fit, 1, files)
    for to, name in (("diffusers", "d/config.json"), ("original", "d_decoder.safetensors")):
        yield Case("outputs", ["convert", model, "d", "--to", to], 1, {name: user})
    run = ["train", "decoder", "../a.png", "--init", "../pair", "-o"]
    yield Case("training", [*run, "run"], 1, {"run/model_decoder.safetensors": user})
    yield Case("training", [*run, "run"], 1, {"run": user})
    yield Case("training", [*run, "/proc/x"], 1)
    for source in ("nothing", "nothing/*.png", "..", "x.txt"):
        words = ["train", "decoder", source, "--init", "../nothing", "-o", "run"]
        yield Case("training", words, 1, {"x.txt": b"no image"})
    for option in ("--init", "--teacher", "--held-out"):
        yield Case("training", [*run, "run", option, "./nothing"], 1)
    yield Case("training", [*run, "run", "--held-out", "../a.png"], 1)
    yield Case("training", [*run, "run", "--resume"], 1)


def stream_cases():
    program = shlex.join([sys.executable, "-m", "taesd_jax"])
    work = f"{program} roundtrip ../a.png {shlex.join(OPTIONS)} -o x.png"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        yield Case("streams", f"{work} {closed}; status=$?; test -f x.png && exit $status", 0)
        yield Case("streams", f"{program} info nothing {closed}", 1)
    yield Case("streams", f"{work} >/dev/full", 1)
    yield Case("streams", f"{work} 2>/dev/full", 0)
    yield Case("streams", f"{program} info nothing 2>/dev/full", 1)
    yield Case("streams", f"{program} --version >/dev/full", 1)
    pipes = f"{program} encode - {shlex.join(OPTIONS)} -o -"
    yield Case("streams", f"{pipes} <../a.png >x.npz; test -s x.npz", 0)
    for odd in ("</dev/null", "<&-", "<../m.safetensors"):
        yield Case("streams", f"{pipes} {odd} >x.npz", 1)
    yield Case("streams", f"{pipes} <../a.png >/dev/full", 1)
    yield Case("streams", f"{pipes} --json <../a.png", 2)
    yield Case("streams", f"{pipes} ../a.png <../a.png", 2)
    yield Case("streams", f"({work}; echo $? >status) | true; grep -qx '0\\|141' status", 0)
    for seconds in (0.2, 0.4, 0.7, 1, 1.5, 2, 2.5, 3, 4, 5, 6):
        # Python resets what a shell's background jobs ignore.
        start = "import os, signal, sys; signal.signal(2, signal.default_int_handler); "
        start += "os.execv(sys.executable, sys.argv[1:])"
        words = shlex.join([sys.executable, "-m", "taesd_jax", "bench", "--peers", "none"])
        shell = f"timeout -s INT {seconds} {sys.executable} -c {shlex.quote(start)} {words}"
        yield Case("streams", f"{shell} --rounds 999; test $? = 124", 0)
    yield Case("streams", f"ulimit -f 4; {work}", 1)


def cases(shared):
    """Yield all cases of the command."""
    for (name, content, works), job in itertools.product(image_cases(), ("encode", "roundtrip")):
        status = {True: 0, False: 1, None: (0, 1)}[works]
        yield Case("images", [job, f"./{name}", *OPTIONS], status, {name: content})
    for name, content, works in latent_cases():
        yield Case("latents", ["decode", f"./{name}", *OPTIONS], 0 if works else 1, {name: content})
    for name, content in weight_cases():
        yield Case("weights", ["info", f"./{name}"], (0, 1), {name: content})
    yield from option_cases()
    yield from output_cases(shared)
    yield from stream_cases()
