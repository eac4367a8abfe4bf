"""Node of the tax bureau: a data holder."""
