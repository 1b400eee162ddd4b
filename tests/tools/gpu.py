"""Check the kernels and whole models on a Hopper GPU, then time them beside PyTorch.

    python tests/tools/gpu.py --json gpu.json

Needs an H100 or H200, PyTorch with CUDA, and about four minutes; run it in the checkout's root.
Exits with 1 if a check failed.
"""

import argparse
import functools
import itertools
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from taesd_jax import VARIANTS, Full, decode, encode
from taesd_jax.cli.counts import count_full, describe_machine, measure_limits
from taesd_jax.cli.measurement import measure
from taesd_jax.cli.runners import Case, draw_params
from taesd_jax.kernels import count_multiprocessors, hopper
from taesd_jax.model.functional import abstract_params
from taesd_jax.model.layers import COMPONENTS

SHAPES = [(1, 32, 32), (3, 34, 72), (1, 130, 1024), (8, 128, 128)]
HALF = ("bfloat16", "float16")
# Mean error of a kernel as a share of its mean result: what rounding the result alone costs is
# 2^-9 / sqrt(3) of it and 2^-12 / sqrt(3); an upsample rounds its summed taps, too.
MEAN_BOUND = {"bfloat16": 2.5e-3, "float16": 3.2e-4}
# Of a whole model, in units of PyTorch's own in the same dtype.
MODEL_BOUND = 1.2
PEERS = ("eager", "channels_last", "cuda_graph", "compile")


class Report:
    """Collects figures and failures, and prints both as they come."""

    def __init__(self):
        self.figures, self.failures = {}, []
        self.start = time.monotonic()

    def add(self, group, name, value, *, ok=True):
        self.figures.setdefault(group, {})[name] = value
        if not ok:
            self.failures.append(f"{group} {name}: {value}")
        clock = f"{time.monotonic() - self.start:5.0f} s"
        print(f"{clock}  {'' if ok else 'FAILED '}{group} {name}: {value}", flush=True)


def draw(seed, shape, dtype):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def forms(count):
    """Return (name, kernel of ours, reference in float32) of each form."""

    def plain(x, k, b=None, skip=None, *, relu=False):
        x, k = x.astype(jnp.float32), k.astype(jnp.float32)
        names = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=names, precision="highest"
        )
        y = y if b is None else y + b.astype(jnp.float32).reshape(1, 1, 1, -1)
        y = y if skip is None else y + skip.astype(jnp.float32)
        return jax.nn.relu(y) if relu else y

    def enlarged(x, k):
        return plain(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), k)

    conv = functools.partial(hopper.conv, multiprocessors=count)
    upsample = functools.partial(hopper.upsample_conv, multiprocessors=count)
    to_image = functools.partial(hopper.conv_to_image, multiprocessors=count)
    return [
        ("conv", lambda x, k, b, s, i: conv(x, k), lambda x, k, b, s, i: plain(x, k)),
        (
            "conv, bias, relu",
            lambda x, k, b, s, i: conv(x, k, b, relu=True),
            lambda x, k, b, s, i: plain(x, k, b, relu=True),
        ),
        (
            "conv, bias, skip, relu",
            lambda x, k, b, s, i: conv(x, k, b, s, relu=True),
            lambda x, k, b, s, i: plain(x, k, b, s, relu=True),
        ),
        ("upsample", lambda x, k, b, s, i: upsample(x, k), lambda x, k, b, s, i: enlarged(x, k)),
        (
            "to image",
            lambda x, k, b, s, i: to_image(x, i, b[:3]),
            lambda x, k, b, s, i: plain(x, i, b[:3]),
        ),
    ]


def check_kernels(report, count):
    cases = [
        (form, shape, dtype)
        for form, shape, dtype in itertools.product(forms(count), SHAPES, HALF)
        if not (form[0] == "to image" and shape[2] % 32)
    ]

    def compile_both(case):
        (_, ours, plain), shape, dtype = case
        arrays = inputs(0, shape, dtype)
        return jax.jit(ours).lower(*arrays).compile(), jax.jit(plain).lower(*arrays).compile()

    with ThreadPoolExecutor(12) as threads:
        compiled = list(threads.map(compile_both, cases))
    for ((name, _, _), shape, dtype), (ours, plain) in zip(cases, compiled, strict=True):
        arrays = inputs(hash((name, shape, dtype)) % 2**31, shape, dtype)
        expected = plain(*arrays)
        # What the result is written into is full of NaN before.
        poison = [jnp.full(expected.shape, jnp.nan, dtype) for _ in range(4)]
        jax.block_until_ready(poison)
        del poison
        got, again = ours(*arrays), ours(*arrays)
        error = jnp.abs(got.astype(jnp.float32) - expected)
        mean = float(error.mean() / jnp.abs(expected).mean())
        largest = float((error / (jnp.abs(expected) + jnp.abs(expected).mean())).max())
        same = bool((got.view(jnp.uint16) == again.view(jnp.uint16)).all())
        bound = MEAN_BOUND[dtype]
        ok = bool(np.isfinite(mean)) and mean < bound and largest < 8 * bound and same
        value = f"mean error {mean:.2e}, largest {largest:.1e}, same bits {same}"
        report.add("kernel", f"{name} {shape} {dtype}", value, ok=ok)


def inputs(seed, shape, dtype):
    x = draw(seed, (*shape, 64), dtype)
    k = draw(seed + 1, (3, 3, 64, 64), dtype) / 24
    return (
        x,
        k.astype(dtype),
        draw(seed + 2, (64,), dtype),
        draw(seed + 3, (*shape, 64), dtype),
        draw(seed + 4, (3, 3, 64, 3), dtype),
    )


def run_model(params, x, component, config, dtype, kernels):
    run = decode if component == "decoder" else encode
    strategy = Full(kernels=kernels)
    return run(params, x.astype(dtype), config=config, strategy=strategy)


def check_models(report, names):
    import torch

    from convert.torch_modules import TorchAutoencoderTiny

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name, component in itertools.product(names, ("decoder", "encoder")):
        config = VARIANTS[name]
        params = draw_params({part: abstract_params(part, config) for part in COMPONENTS})
        x = Case(name, config, component, 256, 2, "float32", 1).draw_input()
        module = getattr(TorchAutoencoderTiny(params, config).eval().cuda(), component)
        with torch.inference_mode():
            feed = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).cuda()
            truth = module(feed).cpu().numpy().transpose(0, 2, 3, 1)
            for dtype in HALF if name == "taesd" else HALF[:1]:
                kind = getattr(torch, dtype)
                theirs = module.to(kind)(feed.to(kind)).float().cpu().numpy()
                module.float().load_state_dict(
                    getattr(TorchAutoencoderTiny(params, config), component).state_dict()
                )
                other = np.abs(theirs.transpose(0, 2, 3, 1) - truth).mean()
                for label, used in (("kernels", True), ("XLA", False)):
                    got = run_model(params, jnp.asarray(x), component, config, dtype, used)
                    error = np.abs(np.asarray(got, np.float32) - truth).mean()
                    value = f"mean error {error:.5f}, PyTorch's {other:.5f}"
                    ok = bool(error <= MODEL_BOUND * other)
                    report.add("model", f"{name} {component} {dtype}, {label}", value, ok=ok)


def check_transforms(report):
    config = VARIANTS["taesd"]
    drawn = draw_params({"decoder": abstract_params("decoder", config)})
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), drawn)
    z = draw(0, (4, 32, 32, 4), jnp.bfloat16)
    run = functools.partial(run_model, component="decoder", config=config, dtype="bfloat16")
    batch = run(params, z, kernels=True)
    mapped = jax.jit(jax.vmap(lambda z: run(params, z[None], kernels=True)[0]))(z)
    report.add("transform", "vmap", "same bits", ok=bool((batch == mapped).all()))

    def gradient(kernels):
        def loss(params):
            return (run(params, z, kernels=kernels).astype(jnp.float32) ** 2).mean()

        return jax.jit(jax.grad(loss))(params)

    pairs = zip(
        *(jax.tree.leaves(gradient(kernels)["decoder"]) for kernels in (True, False)), strict=True
    )
    ok = all(bool((a == b).all()) and bool(jnp.isfinite(a).all()) for a, b in pairs)
    report.add("transform", "grad", "finite, the bits of XLA's own", ok=ok)


def time_table(report, peers, rounds):
    from convert.peers import make_peer

    limits = measure_limits("bfloat16")
    report.add("limits", "bfloat16", limits._asdict())
    for component, batch in itertools.product(("decoder", "encoder"), (8, 1)):
        case = Case("taesd", VARIANTS["taesd"], component, 512, batch, "bfloat16", 16)
        rows = measure(
            case.names(peers, strategies=False), case, rounds=rounds, make_peer=make_peer
        )
        name = f"{component} {batch} x 512"
        counts = count_full(case)
        report.add("time", f"{name}, limit", f"{1e3 * limits.seconds(counts):.3f} ms")
        for row in rows:
            value = row.note or (
                f"{1e3 * row.median_s:.3f} ms, with the copy {1e3 * row.host_median_s:.3f} ms, "
                f"first {row.first_s:.1f} s, error {row.max_error:.2g}"
            )
            report.add("time", f"{name}, {row.name}", value)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--models", nargs="*", default=["taesd"], help="also taef2, taesana: a minute each"
    )
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    report, count = Report(), count_multiprocessors()
    report.add("machine", "is", describe_machine())
    if not count:
        sys.exit("this needs an H100 or H200")
    try:
        check_kernels(report, count)
        time_table(report, args.peers, args.rounds)
        check_transforms(report)
        check_models(report, args.models)
    finally:
        if args.json:
            args.json.write_text(json.dumps(report.figures, indent=2, default=str))
    print("\n".join(["", *report.failures, f"{len(report.failures)} checks failed"]))
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
