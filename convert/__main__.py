"""`python -m convert SOURCE TARGET`: what `taesd-jax convert` does, from a checkout."""

import sys

from taesd_jax.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
