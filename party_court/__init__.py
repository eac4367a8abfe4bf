"""The court's node: a holder of columns."""
