"""Identities, their keys at rest, and statements about keys."""
