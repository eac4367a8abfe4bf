"""One protocol a file, both roles in it, no I/O."""
