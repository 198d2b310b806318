"""No connection is made that was not asked for: commands run with every way out of the machine blocked."""

import os
import socket
import urllib.request

import pytest
from support.command_line import SEARCH, TRAIN, sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

WAYS_OUT = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection")
METHODS_OUT = ("connect", "connect_ex", "sendto", "sendmsg")


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    """What tried to leave the machine, by the name of the function; each attempt fails as one without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "datasets"))
    made = []

    def blocked(name, original=None):
        def function(*arguments, **options):
            if original and arguments[0].family == socket.AF_UNIX:  # between processes of this machine
                return original(*arguments, **options)
            made.append(f"{name}{arguments[-1:]}")
            raise OSError("Network is unreachable")

        return function

    for name in WAYS_OUT:
        monkeypatch.setattr(socket, name, blocked(name))
    for name in METHODS_OUT:
        monkeypatch.setattr(socket.socket, name, blocked(name, getattr(socket.socket, name)))
    return made


def test_attempts_are_seen(attempts):
    """Else the tests below would show nothing."""
    with pytest.raises(OSError):
        socket.create_connection(("localhost", 9))
    with socket.socket() as one, pytest.raises(OSError):
        one.connect(("127.0.0.1", 9))
    assert len(attempts) == 2
    with pytest.raises(OSError):
        urllib.request.urlopen("http://localhost:9")
    assert len(attempts) == 3


def test_a_whole_run_makes_no_connection(attempts):
    for command in (
        [*SEARCH, "--epochs", "1", "--out", "search"],
        [*TRAIN, "--epochs", "1"],
        ["evaluate", "train"],
        ["inspect", "train"],
        ["list"],
    ):
        result = sharpkeras(*command)
        assert result.code == 0, result.err
    assert attempts == []


def test_a_dataset_that_is_not_there_is_not_fetched_unasked(attempts):
    pytest.importorskip("tensorflow_datasets")
    result = sharpkeras(*SEARCH, "--out", "search", "--dataset", "cifar10")
    assert result.code == 4 and "--download" in result.err
    assert attempts == []
