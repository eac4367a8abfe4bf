"""The bank's plaintext mathematics: WOE, optimiser, model, metrics."""
