"""`python -m vaezoo`."""

from vaezoo.cli import main

main()
