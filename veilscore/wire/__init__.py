"""Messages, how they travel, and where secrets come from."""
