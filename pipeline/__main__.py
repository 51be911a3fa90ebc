"""`python -m pipeline` is `msgmeter`."""

from pipeline.cli import main

main()
