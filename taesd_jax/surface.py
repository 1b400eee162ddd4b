"""What pipelines do to a PyTorch model, as far as it means something for params in JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

import jax
import jax.numpy as jnp

from .model.layers import Params
from .model.validation import check_dtype

_TREE = "vae.params is a nested dict of arrays"
_PURE = "nothing: a model is pure functions of vae.params"
_ADVICE = (
    ("add_module register_buffer register_module register_parameter set_submodule", "vae.params"),
    ("buffers children get_buffer get_parameter get_submodule modules named_buffers", _TREE),
    ("named_children named_modules named_parameters parameters", _TREE),
    ("encoder decoder", 'vae.params["encoder"], vae.params["decoder"]'),
    ("state_dict", "taesd_jax.convert.to_torch(vae.params, vae.config)"),
    ("load_state_dict", "taesd_jax.convert.from_torch(state_dict) returns params and config"),
    ("forward", "vae(images)"),
    ("cpu cuda ipu mtia xpu to_empty", "vae.to(jax.devices()[0])"),
    ("bfloat16 double float half type", "vae.to(dtype)"),
    ("device", "jax.tree.leaves(vae.params)[0].device"),
    ("num_parameters", "sum(p.size for p in jax.tree.leaves(vae.params))"),
    ("get_memory_footprint", "sum(p.nbytes for p in jax.tree.leaves(vae.params))"),
    ("train training zero_grad", "nothing: jax.grad differentiates what it is asked to"),
    ("apply", "jax.tree.map(function, vae.params)"),
    ("is_gradient_checkpointing", "vae.enable_gradient_checkpointing() sets it"),
    ("use_slicing use_tiling", 'vae.strategy("decoder", latents) tells how a call runs'),
    ("tile_latent_min_size tile_sample_min_size", "vae.enable_tiling(size)"),
    ("tile_overlap_factor", "nothing: tiles are exact, they need no blending"),
    ("latent_magnitude latent_shift scaling_factor", "vae.config has it"),
    ("spatial_scale_factor", "vae.config.spatial_factor"),
    ("from_config", "AutoencoderTiny.init(key, AutoencoderTinyConfig.from_dict(fields))"),
    ("extract_init_dict get_config_dict load_config", "AutoencoderTinyConfig.from_dict(fields)"),
    ("save_config to_json_file to_json_string", "json.dumps(vae.config.to_dict())"),
    ("register_to_config", "vae.config.replace(...)"),
    ("push_to_hub", "vae.save_pretrained(folder), then huggingface_hub.upload_folder"),
    ("enable_parallelism", "jax.device_put(latents, taesd_jax.shard_images(mesh, batch=axis))"),
    ("compile_repeated_blocks", "vae.compile(shape) compiles ahead of time"),
    ("enable_layerwise_casting", "from_pretrained(name, dtype=, param_dtype=)"),
    ("enable_group_offload", "memory_budget=, or vae.enable_tiling()"),
    ("dequantize", "nothing: quantized checkpoints are not read"),
    ("disable_npu_flash_attention disable_xla_flash_attention", "nothing: it has no attention"),
    ("enable_npu_flash_attention enable_xla_flash_attention", "nothing: it has no attention"),
    ("reset_attention_backend set_attention_backend", "nothing: it has no attention"),
    ("disable_xformers_memory_efficient_attention", "nothing: it has no attention"),
    ("enable_xformers_memory_efficient_attention", "nothing: it has no attention"),
    ("set_use_memory_efficient_attention_xformers", "nothing: it has no attention"),
    ("set_use_npu_flash_attention set_use_xla_flash_attention", "nothing: it has no attention"),
    ("T_destination call_super_init config_name dump_patches extra_repr get_extra_state", _PURE),
    ("has_compatibles ignore_for_config register_backward_hook register_for_auto_class", _PURE),
    ("register_forward_hook register_forward_pre_hook register_full_backward_hook", _PURE),
    ("register_full_backward_pre_hook register_load_state_dict_post_hook", _PURE),
    ("register_load_state_dict_pre_hook register_state_dict_post_hook", _PURE),
    ("register_state_dict_pre_hook set_extra_state share_memory", _PURE),
)
INSTEAD: Mapping[str, str] = {name: text for names, text in _ADVICE for name in names.split()}


class ModuleSurface:
    """Answer what pipelines ask of a PyTorch model; other names of one say what to use here.

    Attributes:
        params: Params of the model.
        dtype: Dtype of the computation and of the results, None for the input's.
    """

    params: Params
    dtype: jnp.dtype | None

    def to(self, *targets: Any, dtype: Any = None, device: Any = None) -> Self:
        """Change params and computation to a dtype, or move the params; return this model.

        Args:
            targets: A dtype, a device, or both in any order.
            dtype: Dtype of the params, of the computation and of the results.
            device: A device of `jax.devices()`, or a sharding.

        Raises:
            TypeError: It is none of these, or the dtype is not floating point.
        """
        for target in targets:
            if isinstance(target, (jax.Device, jax.sharding.Sharding)):
                device = target
            else:
                dtype = target
        if isinstance(device, str):
            raise TypeError(f"a device is one of jax.devices(), got {device!r}")
        params = self.params
        if dtype is not None:
            try:
                dtype = jax.dtypes.canonicalize_dtype(check_dtype(dtype))
            except TypeError as error:
                raise TypeError(f"{error}; a device is one of jax.devices()") from error
            params = jax.tree.map(lambda p: p.astype(dtype), params)
        if device is not None:
            params = jax.device_put(params, device)
        self.params, self.dtype = params, dtype or self.dtype
        return self

    def eval(self) -> Self:
        """Return this model, which has no training mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Return this model; `jax.grad` differentiates what it is asked to."""
        return self

    # Type checkers are to report a misspelt name.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            advice = f"; instead: {INSTEAD[name]}" if name in INSTEAD else ""
            kind = type(self).__name__
            raise AttributeError(f"{kind} has no attribute {name!r}{advice}", name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in INSTEAD:  # it would have no effect
                getattr(self, name)
            object.__setattr__(self, name, value)
