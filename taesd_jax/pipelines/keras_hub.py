"""A tiny autoencoder in keras-hub's Stable Diffusion 3 tasks, on Keras' JAX backend."""

from __future__ import annotations

from typing import Any

from ..autoencoder import AutoencoderTiny
from .latent_check import check_latents

__all__ = ["replace_vae"]


def replace_vae(task: Any, vae: AutoencoderTiny) -> None:
    """Make a keras-hub task decode, and encode, with a tiny autoencoder.

    This replaces `decode_step` of the task's backbone and, if the encoder is loaded,
    `encode_image_step`, which `generate` calls. Both autoencoders have the same latents, so the
    task's own encoder keeps working. Set `generate_function = None` on other tasks that share the
    backbone. Calls of the task itself, and what it saves, keep keras-hub's autoencoder.

    Args:
        task: `StableDiffusion3TextToImage`, `StableDiffusion3ImageToImage` or
            `StableDiffusion3Inpaint`.
        vae: taesd3, or a fine-tuned one.

    Raises:
        ModuleNotFoundError: Keras is not installed.
        TypeError: The task is not one of these.
        ValueError: Keras has another backend or data format, or the task's latents are not those of
            this model.
    """
    try:
        import keras  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "replace_vae needs Keras and keras-hub: pip install 'taesd-jax[keras-hub]'"
        ) from error

    backbone: Any = getattr(task, "backbone", None)
    if not callable(getattr(backbone, "decode_step", None)) or not hasattr(task, "latent_shape"):
        raise TypeError(
            f"task must be one of keras-hub's StableDiffusion3 tasks, got {type(task).__name__}"
        )
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras must run on jax, got {keras.backend.backend()!r}; set KERAS_BACKEND=jax before "
            f"importing keras"
        )
    if keras.config.image_data_format() != "channels_last":
        raise ValueError("Keras' image_data_format must be 'channels_last'")
    rescaling = getattr(backbone, "image_rescaling", None)
    scale = getattr(rescaling, "scale", None)
    check_latents(vae.config, channels=task.latent_shape[-1], scale=scale)
    vae.check_loaded("decoder")
    backbone.decode_step = lambda latents: vae.decode(latents).sample
    if "encoder" in vae.params:
        backbone.encode_image_step = lambda images: vae.encode(images).latents
    # It was compiled with the replaced functions.
    task.generate_function = None
