"""A Homele API that runs on this machine, for the tests and the demo."""

from tests.sandbox.server import Sandbox

__all__ = ["Sandbox"]
