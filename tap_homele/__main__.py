"""Run the tap as ``python -m tap_homele``."""

from tap_homele.tap import TapHomele

TapHomele.cli()
