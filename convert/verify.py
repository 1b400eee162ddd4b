"""`python -m convert.verify MODEL`: what `taesd-jax verify` does, from a checkout."""

import sys

from taesd_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
