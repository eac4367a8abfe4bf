"""Event tables of an owner become variables of its firms; nothing here leaves the owner."""
