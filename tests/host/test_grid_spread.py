"""Which actor of a cluster runs a cell: a cluster in this process, without Ray, of actors that are equally fast."""

import json

import pytest

from kit.grid import GRAPH, INFO, described, kind, node
from pentimento_host import grid_ray
from pentimento_host.grid import Folder, check, claim, parse
from pentimento_host.grid_ray import Outcome

VAE = {**GRAPH, "9": node("VAELoader", "VAE", vae_name="v1"), "7": node("VAEDecode", samples=["6", 0], vae=["9", 0])}
MORE = {
    **INFO,
    "CheckpointLoaderSimple": described({"ckpt_name": kind("STRING")}, ["MODEL", "CLIP", "VAE"]),
    "VAELoader": described({"vae_name": kind("STRING")}, ["VAE"]),
}


class Ref:
    def __init__(self, actor, arguments):
        self.actor, self.arguments = actor, arguments


class Method:
    def __init__(self, call):
        self.remote = call


class Handle:
    """An actor; its calls run when somebody waits for them."""

    def __init__(self):
        self.ran = []
        self.start, self.run = Method(lambda: Ref(self, None)), Method(lambda *arguments: Ref(self, arguments))
        self.stop = Method(lambda: Ref(self, None))

    def loads(self, *keys):
        """How often it had to load one of the nodes."""
        models = [[graph[key]["inputs"] for key in keys] for graph in self.ran]
        return sum(before != after for before, after in zip([None, *models], models, strict=False))


class FakeRay:
    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class ActorDiedError(RayError):
            pass

    def __init__(self, gpus):
        self.gpus, self.handles = gpus, []

    def options(self, **options):
        assert options == {"num_cpus": 0, "num_gpus": 1}
        return Method(self.made)

    def made(self, *arguments):
        self.handles.append(Handle())
        return self.handles[-1]

    def cluster_resources(self):
        return {"GPU": float(self.gpus)}

    def wait(self, refs, timeout, num_returns=1):
        return [min(refs, key=lambda ref: (ref.arguments is not None, len(ref.actor.ran)))], []

    def get(self, ref):
        if ref.arguments is None:
            return MORE
        graph = ref.arguments[1]
        ref.actor.ran.append(graph)
        file = {"filename": "a.png", "subfolder": "", "type": "output"}
        return Outcome({"8": {"images": [file]}}, "", 1.0), [json.dumps(graph).encode()]

    def shutdown(self):
        pass


@pytest.fixture
def spread(tmp_path, monkeypatch):
    """Runs the grid of these axes over actors; the actors."""

    def run(axes, gpus, graph=GRAPH):
        ray = FakeRay(gpus)
        monkeypatch.setattr(grid_ray, "_connect", lambda address: ray)
        monkeypatch.setattr(grid_ray, "_class", lambda *arguments: ray)
        grid = parse.parse(json.dumps({"workflow": "w", "axes": axes}), tmp_path, lambda name: (graph, None))
        claim(tmp_path / "out")
        with grid_ray.Cluster("local", []) as cluster:
            runner = grid_ray.Spread(grid, Folder(tmp_path / "out"), cluster, MORE, check.order(grid, MORE))
            progress = runner.run()
        assert (progress.done, progress.left) == (grid.size(), 0)
        assert sum(len(handle.ran) for handle in ray.handles) == grid.size()
        return ray.handles

    return run


def test_a_checkpoint_stays_with_an_actor(spread):
    axes = {"Model.ckpt_name": "a, b, c, d", "LoRA.lora_name": "x, y", "KSampler.seed": "1, 2"}
    actors = spread(axes, 2)
    assert [actor.loads("1") for actor in actors] == [2, 2]
    assert [actor.loads("1", "2") for actor in actors] == [4, 4]


def test_actors_share_a_checkpoint_that_is_the_only_one(spread):
    actors = spread({"KSampler.seed": "1, ..., 30"}, 3)
    assert all(len(actor.ran) >= 8 for actor in actors)
    few = spread({"KSampler.cfg": "1, 2, 3, 4"}, 3)
    assert sorted(len(actor.ran) for actor in few) == [0, 0, 4]  # loading takes longer than waiting


def test_an_actor_without_work_helps(spread):
    axes = {"Model.ckpt_name": "a, b, c", "KSampler.seed": "1, ..., 20"}
    actors = spread(axes, 2)
    assert all(len(actor.ran) >= 28 for actor in actors)
    assert sum(actor.loads("1") for actor in actors) == 4


def test_of_two_models_an_actor_keeps_one(spread):
    axes = {"Model.ckpt_name": "a, b", "VAE.vae_name": "v1, v2", "KSampler.seed": "1, 2, 3"}
    actors = spread(axes, 2, VAE)
    assert [actor.loads("1") for actor in actors] == [1, 1]
    assert [actor.loads("9") for actor in actors] == [2, 2]
