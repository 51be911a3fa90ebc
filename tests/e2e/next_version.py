"""A worker of the next release, with a state version of its own: `python -m tests.e2e.next_version worker`."""

from pipeline.core import kept

# Before anything of the worker is imported.
kept.STATE_VERSION += 1

from pipeline.cli import main  # noqa: E402 - see above

if __name__ == "__main__":
    main()
