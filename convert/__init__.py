"""The PyTorch side: .pth files, state dicts and modules both ways, and a parity report.

It needs PyTorch: pip install 'taesd-jax[torch]'. pip installs this folder as `taesd_jax.convert`
(package-dir in pyproject.toml). It stands outside the library, which never imports torch. Its files
import each other relatively and the library by name.
"""

try:
    import torch as _  # noqa: F401
except ModuleNotFoundError as error:
    message = "taesd_jax.convert needs PyTorch: pip install 'taesd-jax[torch]'"
    raise ModuleNotFoundError(message, name=error.name) from error

from .parity import ParityReport, ParityRow, parity_report
from .pickles import load_pth, load_video_pth, save_pth
from .state_dicts import from_torch, to_torch
from .torch_modules import TorchAutoencoderTiny, TorchDecoder, TorchEncoder

__all__ = [
    "ParityReport",
    "ParityRow",
    "TorchAutoencoderTiny",
    "TorchDecoder",
    "TorchEncoder",
    "from_torch",
    "load_pth",
    "load_video_pth",
    "parity_report",
    "save_pth",
    "to_torch",
]
