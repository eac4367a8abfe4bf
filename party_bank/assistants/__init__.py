"""Assistants write what people read: credit reports, what changed after a loan, what mining found; all from facts."""
