"""`python -m taesd_jax` is the command `taesd-jax`."""

import sys

from .cli import main

sys.exit(main())
