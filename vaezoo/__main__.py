"""`python -m vaezoo`."""

from vaezoo.cli.main import main

main()
