"""Identities, the federation and the gRPC channel between nodes."""
