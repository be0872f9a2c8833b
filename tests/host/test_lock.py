"""The lock that the host's virtual environment is made from."""

import re

import pytest

from kit.paths import PACK
from pentimento_host import environment


def pins(name):
    lines = (PACK / "host" / name).read_text("utf-8").splitlines()
    return {line.split(" ;")[0] for line in lines if re.match(r"[\w-]+==", line)}


def test_it_holds_what_is_pinned_by_hand():
    by_hand = pins("requirements.in") | pins("overrides.txt")
    assert len(by_hand) >= 4
    assert by_hand <= pins("lock.txt")


@pytest.mark.parametrize("name", ["lock.txt", "lock-ray.txt"])
def test_it_names_no_registry(name):
    assert "://" not in (PACK / "host" / name).read_text("utf-8")


def test_what_ray_adds_goes_with_the_rest():
    lock, ray = pins("lock.txt"), pins("lock-ray.txt")
    assert any(pin.startswith("ray==") for pin in ray)
    names = {pin.split("==")[0] for pin in lock}
    assert {pin for pin in ray if pin.split("==")[0] in names} <= lock


def test_it_is_for_the_three_systems():
    """Markers say what belongs to one system alone: a lock for one system has none."""
    lock = (PACK / "host" / "lock.txt").read_text("utf-8")
    assert (
        "sys_platform == 'win32'" in lock
        and "sys_platform == 'linux'" in lock
        and "python_full_version < '3.11'" in lock
    )


def test_ray_stays_once_it_is_there(tmp_path, monkeypatch):
    locks, host = [], environment.Host(tmp_path, tmp_path / "ComfyUI", tmp_path / "python", own=True)

    def run(what, *command):
        locks.append([part.name for part in command if part in (environment.LOCK, environment.RAY_LOCK)])

    monkeypatch.setattr(environment, "_run", run)
    (tmp_path / "venv").mkdir()
    for with_ray in (False, False, True, False):
        environment._install_requirements(host, with_ray)
    assert locks == [[], ["lock.txt"], ["lock.txt", "lock-ray.txt"]]  # the first makes the environment
    stamp = tmp_path / "venv" / "lock.sha256"
    stamp.write_text(stamp.read_text().replace("a", "b"))
    environment._install_requirements(host, False)
    assert locks[3:] == [["lock.txt", "lock-ray.txt"]]
