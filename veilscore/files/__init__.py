"""What a node keeps on disk: job folders, SQLite files, journals."""
