"""Host 0 says which hosts it waits for."""

import json

import pytest

from vit_jax.cluster import group as group_lib
from vit_jax.cluster.group import Group, Outcome, Patience


class Client:
    """A coordination service in which host 1 answers once host 0 has asked a few times."""

    def __init__(self, delay):
        self.entries = {}
        self.delay = delay

    def key_value_set(self, key, text, allow_overwrite):
        assert allow_overwrite
        self.entries[key] = text

    def key_value_dir_get(self, prefix):
        self.delay -= 1
        if self.delay == 0:
            self.entries["vit_jax/round1/1"] = json.dumps([Outcome().to_json(), "from host 1"])
        return [(key, text) for key, text in self.entries.items() if key.startswith(prefix)]


@pytest.fixture
def exchange(monkeypatch):
    """Returns a function that exchanges a text with host 1, which answers after some requests."""
    made = []

    def call(delay):
        made.append(Group(Client(delay), 0, 2, Patience(60.0, 60.0, 60.0)))
        return made[-1].exchange(None, "from host 0")

    monkeypatch.setattr(group_lib, "ANNOUNCE_SECONDS", 0.0)
    yield call
    for group in made:
        group._over.set()


def test_host_0_names_the_hosts_that_it_waits_for(exchange, capsys):
    assert exchange(delay=3) == ["from host 0", "from host 1"]
    wait, took = capsys.readouterr().out.splitlines()
    assert wait == "wait      for host 1 ..."
    assert took.startswith("          took ")


def test_hosts_that_are_there_are_not_waited_for(exchange, capsys):
    assert exchange(delay=1) == ["from host 0", "from host 1"]
    assert capsys.readouterr().out == ""
