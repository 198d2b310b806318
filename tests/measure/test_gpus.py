"""Which backend is taken where there is a GPU; what the backends answer is faked, since no GPU can be counted on."""

import pytest

from sharpkeras.measure import gpus


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes a machine with or without the file of a GPU, on which Python gives certain answers."""
    gpus.sees_gpu.cache_clear()

    def make(has_file, **answers):
        (tmp_path / "nvidia0").touch() if has_file else None
        monkeypatch.setattr(gpus, "DEVICE_FILES", (str(tmp_path / "nvidia*"),))
        monkeypatch.setattr(
            gpus, "QUESTIONS", {name: f"open({str(tmp_path / name)!r}, 'w'); {code}" for name, code in answers.items()}
        )
        return lambda: sorted(path.name for path in tmp_path.iterdir() if path.name != "nvidia0")

    yield make
    gpus.sees_gpu.cache_clear()


YES, NO, BROKEN = "print('a line before'); print(True)", "print(False)", "raise ImportError"


@pytest.mark.parametrize(
    ("jax", "tensorflow", "expected"),
    [
        (YES, NO, "jax"),
        (YES, BROKEN, "jax"),
        (YES, YES, "tensorflow"),
        (NO, NO, "tensorflow"),
        (BROKEN, NO, "tensorflow"),
    ],
)
def test_jax_is_taken_where_it_alone_sees_a_gpu(machine, jax, tensorflow, expected):
    machine(True, jax=jax, tensorflow=tensorflow)
    assert gpus.suitable_backend() == expected


def test_nothing_is_loaded_where_the_system_has_no_gpu(machine):
    asked = machine(False, jax=YES, tensorflow=NO)
    assert gpus.suitable_backend() == "tensorflow" and asked() == []


def test_tensorflow_is_not_loaded_where_jax_sees_none(machine):
    asked = machine(True, jax=NO, tensorflow=YES)
    assert gpus.suitable_backend() == "tensorflow" and asked() == ["jax"]


def test_the_questions_can_be_asked():
    for code in gpus.QUESTIONS.values():
        compile(code, "question", "exec")


@pytest.mark.parametrize(("device", "expected"), (("auto", "jax"), ("cpu", "tensorflow")))
def test_auto_is_the_backend_that_suits(monkeypatch, capsys, device, expected):
    from sharpkeras_cli import options

    class Stop(Exception):
        pass

    chosen = []

    def stop(name):
        chosen.append(name)
        raise Stop  # before anything is set for this process

    monkeypatch.setattr(gpus, "suitable_backend", lambda: "jax")
    monkeypatch.setattr(options, "require_backend", stop)
    with pytest.raises(Stop):
        options.choose_backend("auto", device)
    assert chosen == [expected]
    assert f"backend {expected}, by --backend auto" in capsys.readouterr().err
    assert options.backend_to_be(["search", "--backend", "auto"]) == "auto"
