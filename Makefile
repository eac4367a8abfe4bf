VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python

protos:
	$(PY) -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. protos/veilscore/v1/*.proto
.PHONY: protos
