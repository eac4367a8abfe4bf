"""What a node keeps on its disk: job folders, SQLite files and journals."""
