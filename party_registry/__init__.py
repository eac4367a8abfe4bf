"""The business registry's node: a holder of columns."""
