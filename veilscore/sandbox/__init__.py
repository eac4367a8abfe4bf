"""Code of a modeller runs at the owner of the data in a sandbox; only declared and approved outputs leave."""
