"""Generated from protos/veilscore/v1; `make protos` makes it anew."""
