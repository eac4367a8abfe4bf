"""Hold the bank's plaintext mathematics (WOE, optimiser, trees, metrics) and its filed models."""
