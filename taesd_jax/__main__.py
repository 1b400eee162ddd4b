"""`python -m taesd_jax` is the command `taesd-jax`."""

from .cli import run

run()
