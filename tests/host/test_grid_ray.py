"""python3 host grid run --ray: a cluster of two machines here, over ComfyUIs of the standard library and real ones."""

import itertools
import json
import os
import threading

import pytest

from kit.fake_comfyui import FakeComfyUI
from kit.grid import pictures, shown, written
from kit.grid_command import SQUARES, call, wait
from pentimento_host import grid_ray

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray keeps to 127.0.0.1
ray = pytest.importorskip("ray", reason="Ray is not installed: python3 host setup --ray")
CATS = """
title: Cats
workflow: workflow.json
axes:
  KSampler.seed: 1, 2, 3, 4
  Model.ckpt_name: a.safetensors, b.safetensors
"""
REAL = """
title: Squares
workflow: squares.json
axes:
  Square.color: 1, ..., 12
  Noise.seed: 1, 2, 3
"""


# A machine that ended refuses connections at once, and Ray takes it for lost after a second, not after a quarter of a
# minute. One that answers late has Ray's usual patience: three times ten seconds.
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a processor each."""
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1}
    head = {**machine, "include_dashboard": False, "_system_config": SOON}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PENTIMENTO_CPU", "1")  # the actors need not import PyTorch to look for a GPU
        machines = Cluster(initialize_head=True, head_node_args=head)
        try:
            machines.second = machines.add_node(**machine)
            yield machines
        finally:
            machines.shutdown()


@pytest.fixture
def fakes():
    with FakeComfyUI() as one, FakeComfyUI() as other:
        yield one, other


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cats.yaml").write_text(CATS)
    return written(tmp_path)


def on(cluster, *servers):
    return ["--ray", cluster.address, *itertools.chain(*(("--server", server.address) for server in servers))]


def loads(fake):
    """How often a ComfyUI had to load a checkpoint."""
    names = [graph["1"]["inputs"]["ckpt_name"] for graph in fake.ran]
    return len([*itertools.groupby(names)])


def test_cells_with_the_same_checkpoint_go_to_the_same_actor(cluster, fakes, folder, tmp_path_factory):
    """Both ComfyUIs begin when both have a cell; the results are those of one ComfyUI."""

    def begin():
        wait(lambda: all(fake.pending for fake in fakes))
        for fake in fakes:
            fake.open.set()

    for fake in fakes:
        fake.open.clear()
    threading.Thread(target=begin, daemon=True).start()
    status, output, complaints = call("run", None, *on(cluster, *fakes), cwd=folder)
    assert (status, output) == (0, f"Cats: 8 of 8 cells done. The results are in {folder / 'cats'}.\n"), complaints
    assert [len(fake.ran) for fake in fakes] == [4, 4]
    assert [loads(fake) for fake in fakes] == [1, 1]

    alone = written(tmp_path_factory.mktemp("alone"))
    (alone / "cats.yaml").write_text(CATS)
    with FakeComfyUI() as fake:
        assert call("run", fake.address, cwd=alone)[0] == 0
    assert pictures(folder) == pictures(alone)
    assert len(shown(folder / "cats")[1]) == 8


def test_failed_cells_are_said_and_a_lost_file_is_made_again(cluster, fakes, folder):
    (folder / "cats.yaml").write_text("workflow: workflow.json\naxes: {KSampler.cfg: '5, 66', KSampler.steps: '4, 13'}")
    for fake in fakes:
        fake.gone = {"0.png"}
    status, output, complaints = call("run", None, *on(cluster, fakes[0]), cwd=folder)
    assert (status, "1 of 4 cells done, 3 failed." in output) == (1, True)
    assert "Failed: 66, 4: KSampler: unlucky\n" in complaints
    assert "Failed: 5, 13: KSampler: 13 is one too many\n" in complaints
    assert fakes[0].freed == 1


@pytest.fixture
def entered(monkeypatch):
    """The clusters that a run uses. A run begins when all its ComfyUIs are ready."""
    clusters, enter = [], grid_ray.Cluster.__enter__

    def wait_for_all(cluster):
        enter(cluster)
        while len(cluster.ready) < len(cluster.actors):
            cluster._look()
        clusters.append(cluster)
        return cluster

    monkeypatch.setattr(grid_ray.Cluster, "__enter__", wait_for_all)
    return clusters


def meanwhile(work):
    threading.Thread(target=work, daemon=True).start()


def test_an_actor_that_ends_costs_its_cells_alone(cluster, fakes, folder, entered):
    """It comes back, elsewhere or on the same machine."""

    def disturb():
        wait(lambda: all(fake.running for fake in fakes))
        ray.kill(entered[0].actors[0].handle, no_restart=False)

    for fake in fakes:
        fake.seconds = 0.3
    meanwhile(disturb)
    assert call("run", None, *on(cluster, *fakes), cwd=folder)[0] == 0
    assert len(pictures(folder)) == 8
    assert 8 <= sum(len(fake.ran) for fake in fakes) <= 8 + grid_ray.AHEAD
    assert len(entered[0].actors) == 2


def test_a_cell_whose_comfyui_ends_each_time_fails(cluster, fakes, folder, entered, monkeypatch):
    monkeypatch.setattr(grid_ray, "MOST_TRIES", 2)

    def disturb():
        wait(lambda: entered)
        (actor,) = entered[0].actors
        try:
            for _ in range(grid_ray.MOST_TRIES):
                wait(lambda: actor.tasks and not actor.start)
                running = next(iter(actor.tasks))
                ray.kill(actor.handle, no_restart=False)
                wait(lambda running=running: running not in actor.tasks)
        finally:
            fakes[0].open.set()

    fakes[0].open.clear()
    meanwhile(disturb)
    status, output, complaints = call("run", None, *on(cluster, fakes[0]), cwd=folder)
    assert (status, "7 of 8 cells done, 1 failed." in output) == (1, True)
    assert "ended 2 times while this cell ran." in complaints


def test_no_comfyui_is_said(cluster, folder):
    assert call("run", None, "--ray", "127.0.0.1:9", cwd=folder)[2].startswith("Ray has no cluster at 127.0.0.1:9: ")
    status, _, complaints = call("run", "127.0.0.1:9", "--ray", cluster.address, cwd=folder)
    assert status == 1
    assert "One of the ComfyUIs is left out: ComfyUI does not answer at http://127.0.0.1:9" in complaints
    assert complaints.splitlines()[-1].startswith("No ComfyUI of the cluster is left.")


def test_a_cluster_that_loses_a_machine_gives_the_results_of_one_machine(
    cluster, server, host, tmp_path, entered, monkeypatch
):
    """Each machine starts a real ComfyUI, and one machine goes while both run cells."""
    folders = [tmp_path / "cluster", tmp_path / "alone"]
    for folder in folders:
        folder.mkdir()
        (folder / "squares.yaml").write_text(REAL)
        (folder / "squares.json").write_text(json.dumps(SQUARES))

    look, removed = grid_ray.Cluster._look, []

    def remove_once(ours):
        if not removed and len(pictures(folders[0])) >= 5 and all(actor.tasks for actor in ours.actors):
            removed.append(cluster.second)
            cluster.remove_node(cluster.second, allow_graceful=False)
            wait(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)  # Ray has noticed
        return look(ours)

    monkeypatch.setattr(grid_ray.Cluster, "_look", remove_once)
    comfyui = None if host.own else host.comfyui
    arguments = {"cwd": folders[0], "file": "squares.yaml", "comfyui": comfyui}
    status, _, complaints = call("run", None, *on(cluster), **arguments)
    assert status == 0, complaints
    assert removed and len(entered[0].ready) == 1
    assert call("run", server, cwd=folders[1], file="squares.yaml")[0] == 0
    assert len(pictures(folders[0])) == 36
    assert pictures(folders[0]) == pictures(folders[1])
