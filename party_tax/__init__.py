"""The tax bureau's node: a holder of columns."""
