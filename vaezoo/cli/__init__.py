"""The `vaezoo` command: thin, the logic is in the library."""
