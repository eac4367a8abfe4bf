"""Node of the business registry: a data holder."""
