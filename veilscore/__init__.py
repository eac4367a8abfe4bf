"""Veilscore: joint scoring of small businesses; raw data never leaves its owner."""

__version__ = "0.1.0"
