"""The ways to run a component, as values: `Full()`, `Strips(...)` or `Tiles(...)`."""

from __future__ import annotations

import dataclasses

from ..config import AutoencoderTinyConfig
from ..model.layers import Component, num_stages
from ..model.validation import check_count


@dataclasses.dataclass(frozen=True)
class Full:
    """Run a component on the full image at once.

    Attributes:
        kernels: Whether what is faster than XLA's own convolutions in half precision serves where
            it can: this library's kernels on one Hopper GPU, oneDNN on a CPU that multiplies
            bfloat16 faster than float32. None is True unless the environment variable
            TAESD_JAX_KERNELS is "0". Elsewhere it makes no difference.
        remat: Whether the backward pass computes each block anew. A GPU or TPU then needs less
            memory, while XLA's CPU compiler merges the two again. Thumbnails ignore it.
    """

    kernels: bool | None = None
    remat: bool = False

    def __repr__(self) -> str:
        """Leave the defaults out."""
        kernels = "" if self.kernels is None else f"kernels={self.kernels}"
        return f"Full({', '.join(filter(None, (kernels, 'remat=True' if self.remat else '')))})"


@dataclasses.dataclass(frozen=True)
class Strips:
    """Run a component in strips of rows; nothing is computed twice.

    Memory does not grow with the height, but for the full stages.

    Attributes:
        full_stages: Stages nearest the latent that run on the full image. They are cheap, and with
            fewer layers in strips fewer rows are computed beyond the image's end. 0 runs every
            layer in strips; stages with a GroupNorm over the image have to run in full. None is
            the default of the component and config, the fastest on a CPU by `taesd-jax bench
            --strategies`.
        rows: Rows of a strip, counted where full stages and strips meet; None as above.

    Raises:
        TypeError: One is not an integer.
        ValueError: One is negative, or there are no rows.
    """

    full_stages: int | None = None
    rows: int | None = None

    def __post_init__(self):
        for name, least in (("full_stages", 0), ("rows", 1)):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value, least=least)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Run a component in square tiles, each with the context that its pixels depend on.

    Attributes:
        size: Side of a tile in latents.

    Raises:
        TypeError: The size is not an integer.
        ValueError: It is not positive.
    """

    size: int = 64

    def __post_init__(self):
        check_count("size", self.size)


Strategy = Full | Strips | Tiles


def min_full_stages(config: AutoencoderTinyConfig) -> int:
    """Count the stages nearest the latent that need the full image: those with a GroupNorm."""
    return int(config.pool_channels > 0)


def resolve_strategy(
    strategy: Strategy | None, component: Component, config: AutoencoderTinyConfig
) -> Strategy:
    """Return a strategy with its defaults filled in; None is `Full()`.

    Raises:
        TypeError: It is not a strategy.
        ValueError: It does not fit the config.

    >>> resolve_strategy(Strips(), "decoder", AutoencoderTinyConfig())
    Strips(full_stages=1, rows=4)
    >>> resolve_strategy(Strips(rows=2), "encoder", AutoencoderTinyConfig())
    Strips(full_stages=2, rows=2)
    """
    if strategy is None:
        return Full()
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy must be Full(), Strips() or Tiles(), got {strategy!r}")
    if not isinstance(strategy, Strips):
        return strategy
    least, most = min_full_stages(config), num_stages(component, config)
    if least > most:
        raise ValueError(
            f"this {component} is one stage with a norm over the whole image, which cannot run in "
            f"strips; use Full()"
        )
    # Strips run on beyond the image by the lag of their last layer. An encoder's lag is counted
    # in latents, so more of its stages run in full.
    full_stages = max(most - (1 if component == "encoder" else 2), least)
    if strategy.full_stages is not None:
        full_stages = strategy.full_stages
    if not least <= full_stages <= most:
        raise ValueError(
            f"strips of this {component} must have {least} to {most} full stages, got {strategy}"
        )
    return Strips(full_stages, strategy.rows or (8 if component == "encoder" else 4))
