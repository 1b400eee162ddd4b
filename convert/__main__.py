"""`python -m convert SOURCE TARGET` in a checkout runs `taesd-jax convert`."""

import sys

from taesd_jax.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
