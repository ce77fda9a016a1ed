"""``python -m vae_compat``: the command."""

import sys

from vae_compat.front.cli import console

sys.exit(console())
