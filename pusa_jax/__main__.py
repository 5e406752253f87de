"""`python -m pusa_jax` is the command `pusa-jax`."""

import sys

from pusa_jax.cli.entry import main

sys.exit(main())
