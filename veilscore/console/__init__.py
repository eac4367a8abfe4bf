"""The console: pages of a node for its own people, in a browser."""
