"""Protocols as generators, the driver that runs them, how messages travel, and where secrets come from."""
