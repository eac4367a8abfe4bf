"""Each file is one protocol, with both roles in it and no I/O."""
