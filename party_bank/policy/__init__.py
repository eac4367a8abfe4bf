"""The bank's lending policies: decision graphs that are checked, tried on past firms, and activated by two people."""
