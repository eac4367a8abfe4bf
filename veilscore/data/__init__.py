"""From files and databases to codes."""
