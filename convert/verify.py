"""`python -m convert.verify MODEL` in a checkout runs `taesd-jax verify`."""

import sys

from taesd_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
