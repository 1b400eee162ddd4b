"""A tiny autoencoder inside keras-hub's Stable Diffusion 3, on Keras' JAX backend."""

from __future__ import annotations

from typing import Any

from ..autoencoder import AutoencoderTiny


def replace_vae(task: Any, vae: AutoencoderTiny) -> None:
    """Let a keras-hub task decode, and encode, with a tiny autoencoder.

    Its backbone's `decode_step` and `encode_image_step` are replaced; without an encoder only the
    former. The latents are the same, so a task's own encoder goes on working. Of other tasks that
    share the backbone, set `generate_function` to None.

    Args:
        task: `StableDiffusion3TextToImage`, `StableDiffusion3ImageToImage` or
            `StableDiffusion3Inpaint`.
        vae: taesd3, or a fine-tuned one.

    Raises:
        TypeError: The task is not one of these.
        ValueError: Keras has another backend or array layout, or the latents are another model's.
    """
    import keras  # pyright: ignore[reportMissingImports]

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
    channels = task.latent_shape[-1]
    if channels != vae.config.latent_channels:
        raise ValueError(
            f"the task has latents of {channels} channels, this autoencoder of "
            f"{vae.config.latent_channels}; stable diffusion 3 takes taesd3"
        )
    vae.check_loaded("decoder")
    backbone.decode_step = lambda latents: vae.decode(latents).sample
    if "encoder" in vae.params:
        backbone.encode_image_step = lambda images: vae.encode(images).latents
    # Compiled for the old one.
    task.generate_function = None
