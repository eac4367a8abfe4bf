"""Connections between nodes: gRPC with pinned TLS, sessions, and one attempt at a step."""
