"""Alembic runs this: it takes the connection of `book_version`, whose transaction it leaves to it."""

from alembic import context

from party_bank.book_tables import metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"], target_metadata=metadata, version_table=attributes["version_table"]
)
context.run_migrations()
