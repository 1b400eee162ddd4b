"""The `taesd-jax` command: one file a subcommand, with its arguments and its run."""

from .command import main, run

__all__ = ["main", "run"]
