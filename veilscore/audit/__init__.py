"""Audit by replay: the bank's roles are run again and compared with what others logged."""
