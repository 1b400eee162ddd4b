"""The subcommands of `taesd-jax`, a function each that takes the parsed arguments."""
