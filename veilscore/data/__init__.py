"""Read files and databases, and turn their columns into codes."""
