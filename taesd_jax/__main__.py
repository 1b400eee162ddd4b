"""`python -m taesd_jax` is the command `taesd-jax`."""

from .cli.command import run

run()
