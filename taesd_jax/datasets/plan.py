"""The plan of a data set, frozen before any work: which input goes into which shard, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError
from ..io.files import reading, write_files
from .formats import FORMATS
from .manifest import shard_path
from .pictures import Geometry
from .sources import Item, field_names

PLAN_FILE = "plan.json"
INPUTS_FILE = "inputs.jsonl"
# Of how pictures are prepared; another number refuses to continue older plans.
_PREPROCESSING = 1


class Plan(NamedTuple):
    """What is to be done in a folder, and how.

    Attributes:
        folder: Of the data set.
        fingerprint: Digest of the settings and the inputs.
        model: Name or path of the model, for whoever decodes.
        settings: What the bytes of the shards follow from, beside the inputs; JSON.
        root: Of the inputs' paths.
        inputs: Number of inputs.
        offsets: Where each shard's inputs begin in `inputs.jsonl`, and their end.
        fields: Names of what travels along with some input, as far as the listing tells: every
            shard has all of them, for readers of several shards.
    """

    folder: Path
    fingerprint: str
    model: str
    settings: dict[str, Any]
    root: str
    inputs: int
    offsets: tuple[int, ...]
    fields: tuple[str, ...]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.offsets) - 1

    def count(self, index: int) -> int:
        """Return the number of inputs of a shard."""
        size = self.settings["shard_images"]
        return min(size, self.inputs - index * size)

    @property
    def geometry(self) -> Geometry:
        """What becomes of a picture's size."""
        sizes = tuple((height, width) for height, width in self.settings["sizes"])
        return Geometry(sizes, self.settings["multiple"])

    @property
    def metadata(self) -> dict[str, str]:
        """What each shard's metadata hold: the settings, those that are not text as JSON."""
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.settings.items()}
        return {"fingerprint": self.fingerprint, "model": self.model, **texts}

    def shard_path(self, index: int) -> Path:
        """Return the path of a shard."""
        return shard_path(self.folder, index, FORMATS[self.settings["format"]])

    def items(self, index: int) -> list[Item]:
        """Return the inputs of a shard."""
        with (self.folder / INPUTS_FILE).open("rb") as file:
            file.seek(self.offsets[index])
            lines = file.read(self.offsets[index + 1] - self.offsets[index]).splitlines()
        return [_to_item(json.loads(line)) for line in lines]


def make_settings(
    config: AutoencoderTinyConfig,
    geometry: Geometry,
    *,
    encoder_sha256: str,
    **others: Any,
) -> dict[str, Any]:
    """Return the settings of a plan.

    Args:
        config: Of the model.
        geometry: What becomes of a picture's size.
        encoder_sha256: `digest_tree` of the encoder's params.
        others: The settings `dtype`, `flip`, `format`, `image_column`, `shard_images`, `store`.
    """
    settings = {
        "data_format": "NHWC",
        "latent_space": "model",  # scale 1, shift 0
        "encoder_sha256": encoder_sha256,
        "config": config.to_dict(),
        "sizes": geometry.sizes,
        "multiple": geometry.multiple,
        "preprocessing": _PREPROCESSING,
        **others,
    }
    return json.loads(json.dumps(settings))  # as it is read again


def make_plan(
    folder: Path,
    root: str,
    items: Iterable[Item],
    settings: Mapping[str, Any],
    *,
    model: str = "",
    dry: bool = False,
) -> Plan:
    """Freeze a plan in a folder, or return the one that is frozen there if it is the same.

    Args:
        folder: Of the data set; new, empty, or with a plan.
        root: Of the inputs' paths.
        items: The inputs, sorted.
        settings: Those of `make_settings`.
        model: Its name or path.
        dry: Write nothing.

    Raises:
        MediaFileError: The folder has another plan, which the message compares, or other files.
    """
    lines = [json.dumps(item).encode() + b"\n" for item in items]
    count = settings["shard_images"]
    pieces = [b"".join(lines[i : i + count]) for i in range(0, len(lines), count)]
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    content = b"".join(pieces)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(content)
    fingerprint = digest.hexdigest()
    inputs = len(lines), tuple(offsets), field_names(items)
    plan = Plan(folder, fingerprint, model, dict(settings), root, *inputs)
    if (folder / PLAN_FILE).exists():
        frozen = load_plan(folder)
        check_settings(frozen, settings)
        if frozen.fingerprint != plan.fingerprint:
            after = [_to_item(json.loads(line)) for line in lines]
            raise MediaFileError(_compare_inputs(frozen, after))
        plan = frozen._replace(root=root)  # the inputs may have moved as a whole
    # A kill leaves temporary files, whose names begin with a dot.
    elif others := {path.name for path in folder.glob("[!.]*")} - {INPUTS_FILE, PLAN_FILE}:
        raise MediaFileError(
            f"{folder} holds files of something else, such as {min(others)}; name a new folder"
        )
    if dry:
        return plan
    fields = plan._asdict()
    del fields["folder"]
    text = json.dumps(fields, indent=1) + "\n"
    # One after the other: there is no plan without its inputs.
    write_files({folder / INPUTS_FILE: content})
    write_files({folder / PLAN_FILE: text.encode()})
    return plan


def load_plan(folder: Path) -> Plan:
    """Return the plan that is frozen in a folder.

    Raises:
        MediaFileError: There is none, or it cannot be read.
    """
    path = folder / PLAN_FILE
    with reading(path):
        fields = json.loads(path.read_text())
        fields |= {name: tuple(fields[name]) for name in ("offsets", "fields")}
        return Plan(folder=folder, **fields)


def check_settings(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Raise MediaFileError unless a frozen plan has these settings."""
    frozen = plan.settings
    changes = [
        f"{name} was {frozen.get(name)!r}, is {settings.get(name)!r}"
        for name in sorted({*frozen, *settings})
        if frozen.get(name) != settings.get(name)
    ]
    if changes:
        raise MediaFileError(
            f"{plan.folder} was begun with other settings: {'; '.join(changes)}; name a new folder"
        )


def _to_item(fields: list[Any]) -> Item:
    key, path, stamp, place = fields
    return Item(key, path, tuple(stamp), place)


def _compare_inputs(frozen: Plan, items: list[Item]) -> str:
    before = {item.key: item for index in range(frozen.shards) for item in frozen.items(index)}
    after = {item.key: item for item in items}
    kinds = {
        "new": after.keys() - before.keys(),
        "gone": before.keys() - after.keys(),
        "changed": {key for key in before.keys() & after.keys() if before[key] != after[key]},
    }
    changes = [f"{len(keys)} {kind}, such as {min(keys)}" for kind, keys in kinds.items() if keys]
    return (
        f"{frozen.folder} was begun with other inputs: {'; '.join(changes)}. Name a new folder, or "
        f"go on with the inputs that were planned by --as-planned"
    )
