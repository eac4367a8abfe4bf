"""The contract of the coordinator's state on a PostgreSQL server made for this test."""

from __future__ import annotations

import pytest
from database_servers import postgres
from state_contract import StateContract

from coordinator.state import State


@pytest.fixture(scope="module")
def server_url():
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def state(server_url):
    state = State(server_url)
    yield state
    state.close()


class TestPostgres(StateContract):
    @pytest.fixture
    def reopen(self, server_url):
        return lambda: State(server_url)
