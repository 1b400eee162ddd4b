"""The peers of `taesd-jax bench`: other libraries running the same weights."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taesd_jax.config import AutoencoderTinyConfig
from taesd_jax.model.layers import Component, Params
from taesd_jax.weights import save

from .torch_modules import TorchAutoencoderTiny

# start() -> result, wait(result), fetch(result) -> array in host memory.
Peer = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], np.ndarray]]


def make_peer(
    name: str,
    params: Params,
    config: AutoencoderTinyConfig,
    component: Component,
    x: np.ndarray,
    *,
    dtype: str,
    threads: int,
) -> Peer:
    """Return functions that start a component on x, wait, and fetch its NHWC float32 result.

    PyTorch runs diffusers' `AutoencoderTiny`, or our modules where that cannot express the model or
    is not installed. ONNX Runtime and OpenVINO convert our PyTorch modules.

    Args:
        name: "eager" (PyTorch in NCHW, as users run it), "channels_last", "cuda_graph" (a recorded
            graph of the latter), "compile" (`torch.compile`, on a GPU in mode "reduce-overhead"),
            "onnxruntime" or "openvino".
        params: Both components.
        config: Architecture.
        component: "encoder" or "decoder".
        x: Its input, NHWC.
        dtype: "float32" or "bfloat16".
        threads: Number of CPU threads.

    Raises:
        ImportError: The peer is not installed.
        ValueError: The peer cannot run this dtype.
    """
    torch.set_num_threads(threads)
    example = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    if name == "onnxruntime":
        return _on_host(
            _onnxruntime(_reference(params, config, component), example, dtype, threads)
        )
    if name == "openvino":
        return _on_host(_openvino(_reference(params, config, component), example, dtype, threads))
    return _torch(name, _diffusers(params, config, component), example, getattr(torch, dtype))


def _on_host(run: Callable[[], np.ndarray]) -> Peer:
    return run, lambda result: result, lambda result: result


def _torch(name: str, model: nn.Module, example: torch.Tensor, dtype: torch.dtype) -> Peer:
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    model, example = model.to(device, dtype), example.to(device, dtype)
    if name != "eager":
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        example = example.to(memory_format=torch.channels_last)
    run: Callable[[], torch.Tensor] = functools.partial(model, example)
    if name == "compile":
        mode = "reduce-overhead" if on_gpu else "default"
        run = functools.partial(torch.compile(model, mode=mode), example)
    if name == "cuda_graph":
        run = _record(run)

    def start() -> torch.Tensor:
        with torch.inference_mode():
            return run()

    def wait(result: torch.Tensor) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    return start, wait, lambda result: _nhwc(result.float().cpu().numpy())


def _record(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Return a function that replays the kernels of `run` as one CUDA graph."""
    if not torch.cuda.is_available():
        raise ValueError("CUDA graphs need a GPU")
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


class _Method(nn.Module):
    """One method of diffusers' class as a module."""

    def __init__(self, model: Any, component: Component):
        super().__init__()
        self.model, self.method = model, component

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        run = model.encode if self.method == "encoder" else model.decode
        return run(x, return_dict=False)[0]


def _diffusers(params: Params, config: AutoencoderTinyConfig, component: Component) -> nn.Module:
    if not config.fits_diffusers or importlib.util.find_spec("diffusers") is None:
        return _reference(params, config, component)
    from diffusers.models import AutoencoderTiny
    from diffusers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        save(folder, params, config, format="diffusers")
        model = AutoencoderTiny.from_pretrained(folder, low_cpu_mem_usage=False)
    return _Method(model, component).eval()


def _reference(params: Params, config: AutoencoderTinyConfig, component: Component) -> nn.Module:
    return getattr(TorchAutoencoderTiny(params, config).eval(), component)


def _onnxruntime(
    model: nn.Module, example: torch.Tensor, dtype: str, threads: int
) -> Callable[[], np.ndarray]:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    if dtype != "float32":
        raise ValueError(f"ONNX Runtime runs float32 here, not {dtype}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "model.onnx")
        torch.onnx.export(model, (example,), path, dynamo=False, input_names=["x"])
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    inputs = {"x": example.numpy()}
    return lambda: _nhwc(session.run(None, inputs)[0])


def _openvino(
    model: nn.Module, example: torch.Tensor, dtype: str, threads: int
) -> Callable[[], np.ndarray]:
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    if dtype == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("OpenVINO has no bfloat16 on this CPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(model, example_input=example, input=[example.shape])
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(converted, "CPU", options).create_infer_request()
    return lambda: _nhwc(next(iter(request.infer([example.numpy()]).values())))


def _nhwc(array: Any) -> np.ndarray:
    return np.asarray(array).transpose(0, 2, 3, 1)
