"""Node of the bank: a label holder."""
