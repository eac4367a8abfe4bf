"""Changes of the book's tables from version to version, run by alembic; a version that was shipped never changes."""
