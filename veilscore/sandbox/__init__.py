"""Code of a modeller, run at the owner of the data in a sandbox; only declared and approved outputs leave."""
