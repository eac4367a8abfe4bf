"""The bank's node: it has the labels."""
