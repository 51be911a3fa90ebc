"""The deployments of the end-to-end tests, for these tests too."""

from tests.e2e.conftest import make_system

__all__ = ["make_system"]
