"""Damaged and hostile files, made from whole ones; shared by test_hostile.py and fuzz.py."""

import json
import struct

import numpy as np

import taesd_jax
from taesd_jax import CheckpointError

DTYPES = ("F64", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL", "I64", "F128", "", 7, None)


def split(raw):
    """Return the header and the data of a safetensors file."""
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def join(header, data):
    """Return a safetensors file of a header, given as a dict or as text, and data."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensors_of(header):
    return [name for name in header if name != "__metadata__"]


def truncated(raw, rng):
    return raw[: rng.integers(len(raw))]


def extended(raw, rng):
    return raw + rng.bytes(rng.integers(1, 64))


def flipped(raw, rng):
    """Turn over one bit."""
    place = int(rng.integers(len(raw)))
    return raw[:place] + bytes([raw[place] ^ (1 << int(rng.integers(8)))]) + raw[place + 1 :]


def header_flipped(raw, rng):
    size = 8 + struct.unpack("<Q", raw[:8])[0]
    return flipped(raw[:size], rng) + raw[size:]


def reordered(raw, rng):
    """List the tensors in another order, which changes nothing."""
    header, data = split(raw)
    names = rng.permutation(list(header))
    return join({name: header[name] for name in names}, data)


def exchanged(raw, rng):
    """Give the values of one tensor to another of its shape."""
    header, data = split(raw)
    names = rng.permutation(tensors_of(header))
    for one in names:
        for other in names:
            if one != other and header[one]["shape"] == header[other]["shape"]:
                header[one], header[other] = header[other], header[one]
                return join(header, data)
    return raw


def duplicated(raw, rng):
    """Name a tensor twice, with different places."""
    header, data = split(raw)
    one, other = rng.choice(tensors_of(header), 2, replace=False)
    text = json.dumps(header)
    return join(f'{text[:-1]}, "{one}": {json.dumps(header[other])}}}', data)


def huge_header(raw, rng):
    padding = int(rng.choice([2**12, 2**22, 2**24]))
    header, data = split(raw)
    return join(json.dumps(header) + " " * padding, data)


def lying_header(raw, rng):
    sizes = (0, 1, 7, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
    size = sizes[rng.integers(len(sizes))]
    return struct.pack("<Q", size) + raw[8:]


def overlapping(raw, rng):
    header, data = split(raw)
    name = str(rng.choice(tensors_of(header)))
    shift = int(rng.integers(-64, 64))
    header[name]["data_offsets"] = [place + shift for place in header[name]["data_offsets"]]
    return join(header, data)


def not_finite(raw, rng):
    header, data = split(raw)
    start, stop = header[str(rng.choice(tensors_of(header)))]["data_offsets"]
    place = start + 4 * int(rng.integers((stop - start) // 4))
    value = rng.choice(np.array([np.nan, np.inf, -np.inf], "<f4"))
    return join(header, data[:place] + value.tobytes() + data[place + 4 :])


def other_dtype(raw, rng):
    header, data = split(raw)
    header[str(rng.choice(tensors_of(header)))]["dtype"] = DTYPES[rng.integers(len(DTYPES))]
    return join(header, data)


def other_shape(raw, rng):
    header, data = split(raw)
    choices = ([], [0], [2**40, 2**40], [-1], [1.5], None, "8", [[1]], [2**64])
    header[str(rng.choice(tensors_of(header)))]["shape"] = choices[rng.integers(len(choices))]
    return join(header, data)


def empty_tensor(raw, rng):
    header, data = split(raw)
    name = str(rng.choice(["0.weight", "extra", "", "a" * 5000]))
    header[name] = {"dtype": "F32", "shape": [0, 8, 3, 3], "data_offsets": [len(data), len(data)]}
    return join(header, data)


def renamed(raw, rng):
    """Give a tensor the name of a path, of a control sequence, or of nothing."""
    header, data = split(raw)
    names = ("../../etc/passwd", "/dev/null", "", "\x1b[2J\x00", "9" * 400 + ".weight", "0..weight")
    tensor = header.pop(str(rng.choice(tensors_of(header))))
    return join(header | {names[rng.integers(len(names))]: tensor}, data)


def dropped(raw, rng):
    header, data = split(raw)
    header.pop(str(rng.choice(list(header))))
    return join(header, data)


def wrapped(raw, rng):
    """Put the prefixes of wrappers before all names, or before most."""
    header, data = split(raw)
    prefixes = ("vae.", "module.", "first_stage_model.", "module._orig_mod.", "vae." * 5)
    prefix, share = prefixes[rng.integers(len(prefixes))], rng.choice([1, 0.9])
    kept = [name for name in tensors_of(header) if rng.random() >= share]
    kept.append("__metadata__")
    return join({name if name in kept else prefix + name: header[name] for name in header}, data)


MUTATIONS = (
    *(truncated, extended, flipped, header_flipped, reordered, exchanged, duplicated),
    *(huge_header, lying_header, overlapping, not_finite, other_dtype, other_shape),
    *(empty_tensor, renamed, dropped, wrapped),
)


def outcome(path):
    """Load a file: the checkpoint, or the CheckpointError; whatever else is raised is a fault."""
    try:
        checkpoint = taesd_jax.load(path)
    except CheckpointError as error:
        return error
    leaves = list(walk(checkpoint.params))
    assert leaves
    assert all(np.isfinite(leaf.astype("f4")).all() for leaf in leaves)
    # It is whole: what it says it is can be written again.
    taesd_jax.weights.serialise(checkpoint.params, checkpoint.config, format="flax")
    return checkpoint


def walk(tree):
    for _, value in sorted(tree.items()):
        if isinstance(value, dict):
            yield from walk(value)
        else:
            yield value


def same_bits(one, other):
    a, b = list(walk(one)), list(walk(other))
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(a, b, strict=True)
    )
