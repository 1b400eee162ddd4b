"""The arguments of the subcommands, without JAX: help, usage errors and completion take no time."""
