"""The engine for many machines: Ray actors, one for each GPU, TPU host or machine."""

from __future__ import annotations

import logging
import queue
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError
from .batches import Encoder
from .encoding import Options, Progress, Reporter, encode_items, encode_shard, place_encoder
from .manifest import ShardReport
from .plan import Plan

# A worker may end for reasons of its machine: so often it is not the shard that is to blame.
_RETRIES = 3
_POISON = "ended the process that worked on it, alone too"


class _Model(NamedTuple):
    plan: Plan
    params: Any
    config: AutoencoderTinyConfig
    batch_size: int | None
    device: str | None


def run_on_ray(
    plan: Plan,
    indices: Iterable[int],
    vae: AutoencoderTiny,
    options: Options,
    reporter: Reporter,
    *,
    address: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> None:
    """Make shards on a Ray cluster whose machines share the folder and the source.

    A shard that ends its worker is divided until the input is found that does, which then fails.

    Args:
        plan: What the shards belong to.
        indices: Numbers of the shards.
        vae: The model.
        options: As for `run_local`. On a cluster without GPUs and TPUs, `workers` is also the
            number of CPUs of an actor; by default it has those of a machine.
        reporter: Is told of the progress.
        address: Of the cluster, or "auto"; by default one that is started on this machine.
        batch_size: Images at a time.
        device: Platform to run on; by default JAX's.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        MediaFileError: Too many inputs failed, or workers end whatever they work on.
        OSError: A shard cannot be written.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        advice = 'pip install "taesd-jax[ray]"'
        raise ModuleNotFoundError(f"--engine ray needs Ray: {advice}", name="ray") from error

    if not ray.is_initialized():
        with warnings.catch_warnings():
            # It starts programs; JAX warns of processes that would go on as copies of this one.
            warnings.filterwarnings("ignore", message=r"os\.fork")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    resources, count, cpus = _divide_cluster(ray, options.workers)
    options = options._replace(workers=options.workers or cpus)
    params = jax.tree.map(np.asarray, {"encoder": vae.params["encoder"]})
    model = ray.put(_Model(plan, params, vae.config, batch_size, device))
    make: Any = ray.remote(max_restarts=-1, **resources)(_Worker)
    workers = [_Remote(ray, make.remote(), model, plan) for _ in range(count)]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in indices:
        todo.put(index)
    failures = 0

    def serve(worker: _Remote) -> None:
        nonlocal failures
        # Raises if workers cannot start at all, which must not be taken for a bad input.
        ray.get(worker.actor.probe.remote(model, 0, []))
        while (index := _next(todo)) is not None:
            left = None if options.max_failures is None else options.max_failures - failures
            report = worker.encode(index, options._replace(max_failures=left))
            failures += len(report.failures)
            if options.max_failures is not None and failures > options.max_failures:
                raise MediaFileError(f"{failures} inputs failed, more than --max-failures")
            reporter.observe(index, Progress(report.inputs, len(report.failures)))
            reporter.finish(report)

    with ThreadPoolExecutor(count) as pool:
        try:
            for served in as_completed([pool.submit(serve, worker) for worker in workers]):
                served.result()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            while _next(todo) is not None:
                pass
            for worker in workers:
                ray.kill(worker.actor)


def _next(todo: queue.SimpleQueue[int]) -> int | None:
    try:
        return todo.get_nowait()
    except queue.Empty:
        return None


class _Worker:
    """Encodes shards, in a process of its own.

    Its methods take the model, which a process that starts again has to get again.
    """

    _encoder: Encoder | None = None

    def encode(self, model: _Model, index: int, options: Options) -> ShardReport:
        return encode_shard(model.plan, index, encoder=self._place(model), options=options)

    def probe(self, model: _Model, index: int, keys: Sequence[str]) -> None:
        """Do all the work on some inputs of a shard, and forget it."""
        wanted = {*keys}
        items = [item for item in model.plan.items(index) if item.key in wanted]
        encode_items(model.plan, items, self._place(model), Options(workers=1))

    def wait(self) -> None:
        """Return once there is a process to call."""

    def _place(self, model: _Model) -> Encoder:
        if not self._encoder:
            if model.device:
                jax.config.update("jax_default_device", jax.local_devices(backend=model.device)[0])
            vae = AutoencoderTiny(model.params, model.config)
            self._encoder = place_encoder(model.plan, vae, batch_size=model.batch_size)
        return self._encoder


def _divide_cluster(ray: Any, cpus: int | None) -> tuple[dict[str, Any], int, int]:
    """Return the resources of an actor, how many have place in a cluster, and the CPUs of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in ("GPU", "TPU"):
        having = [node for node in nodes if node.get(name)]
        counts = [int(node[name]) for node in having]
        if having and name == "GPU":
            share = sum(int(node.get("CPU", 1)) for node in having) // sum(counts)
            return {"num_gpus": 1}, sum(counts), max(share, 1)
        if having:  # JAX wants all chips of a host for one process
            share = min(int(node.get("CPU", 1)) for node in having)
            return {"resources": {"TPU": min(counts)}}, len(having), share
    counts = [int(node["CPU"]) for node in nodes if node.get("CPU")]
    cpus = min(cpus or min(counts), min(counts))
    return {"num_cpus": cpus}, sum(count // cpus for count in counts), cpus


class _Remote(NamedTuple):
    """A `_Worker` as the driver sees it."""

    ray: Any
    actor: Any
    model: Any
    plan: Plan

    def encode(self, index: int, options: Options) -> ShardReport:
        """Make a shard, again if the worker ends, and then without the inputs that end it."""
        excluded: dict[str, str] = {}
        ends = 0
        while True:
            options = options._replace(excluded=dict(excluded))
            task = self.actor.encode.remote(self.model, index, options)
            if not self._ends(task):
                return self.ray.get(task)
            ends += 1
            if ends == 1:
                continue
            if (key := self._find_poison(index, excluded)) is not None:
                excluded[key], ends = _POISON, 1
            elif ends > _RETRIES:
                raise MediaFileError(
                    f"{self.plan.shard_path(index).name}: its workers ended {ends} times, and no "
                    f"single input is to blame; are they short of memory? See Ray's logs"
                )

    def _find_poison(self, index: int, excluded: dict[str, str]) -> str | None:
        """Return the key of an input that ends the worker that works on it, if there is one."""

        def end(keys: list[str]) -> bool:
            return self._ends(self.actor.probe.remote(self.model, index, keys))

        keys = [item.key for item in self.plan.items(index) if item.key not in excluded]
        while len(keys) > 1:
            half = keys[: len(keys) // 2]
            keys = half if end(half) else keys[len(half) :]
        # Alone it does, and nothing at all does not.
        return keys[0] if keys and end(keys) and not end([]) else None

    def _ends(self, task: Any) -> bool:
        """Wait for a task; return whether the worker ended before it. Other errors are raised."""
        errors = self.ray.exceptions
        try:
            self.ray.get(task)
        except (errors.RayActorError, errors.OutOfMemoryError):
            # While it starts again, other calls would fail as if they had ended it.
            self.ray.get(self.actor.wait.options(max_task_retries=-1).remote())
            return True
        return False
