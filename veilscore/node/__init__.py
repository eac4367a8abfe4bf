"""Jobs, policies, a node's files and what runs where."""
