"""Running a grid: what is queued, what is saved, what a second run leaves alone."""

import csv
import itertools
import json
import tracemalloc

import pytest

from kit.grid import GRAPH, INFO, Fake, pictures, runner, shown, spanned
from pentimento.model_patchers.grid import check, expand, folder, run
from pentimento.model_patchers.grid.expand import GridError
from pentimento.model_patchers.score import output

AXES = {"KSampler.seed": [1, 2, 3], "KSampler.cfg": [5, 6], "Model.ckpt_name": ["a.safetensors", "b.safetensors"]}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_every_cell_is_run_once_with_the_slow_axis_outermost(out):
    grid, server = spanned(AXES), Fake()
    progress = runner(grid, out, server).run()
    assert (progress.total, progress.done, progress.failed, progress.left) == (12, 12, 0, 0)
    assert [graph["1"]["inputs"]["ckpt_name"][0] for graph in server.ran] == ["a"] * 6 + ["b"] * 6
    assert len({expand.digest(graph) for graph in server.ran}) == 12
    assert server.most == run.AHEAD
    assert len(pictures(out)) == 12
    data, cells = shown(out)
    assert sorted(cells) == list(range(12))
    for cell in grid.cells():
        (file,) = cells[grid.number(cell)]["files"]
        graph, workflow = json.loads((out / file).read_bytes())
        assert graph == grid.workflow(cell)
        assert workflow is None
        assert file == f"cells/{grid.path(cell, expand.digest(graph))}.png"
    assert data["progress"].pop("written") > 1e9
    assert data["progress"] == {"total": 12, "done": 12, "failed": 0, "seconds_left": 0.0, "running": False}


def test_models_are_loaded_as_seldom_as_the_axes_allow(out):
    """Over a server that keeps, as ComfyUI does, the results of the last prompt: each loader's key is what it reads."""
    axes = {"KSampler.seed": [1, 2], "LoRA.lora_name": ["x.safetensors", "y.safetensors"], **AXES}
    grid, server = spanned(axes), Fake()
    work = runner(grid, out, server)
    work.run()
    loads = {"Model": 0, "LoRA": 0}
    for before, graph in itertools.pairwise([None, *server.ran]):
        keys = [
            graph and (graph["1"]["inputs"], {**graph["1"]["inputs"], **graph["2"]["inputs"]})
            for graph in (before, graph)
        ]
        for loader, place in (("Model", 0), ("LoRA", 1)):
            loads[loader] += before is None or keys[0][place] != keys[1][place]
    assert loads == {"Model": 2, "LoRA": 4}  # a model for each value, and a LoRA for each pair
    assert loads == check.cost(grid, INFO, work.order).loads


def test_a_second_run_runs_nothing(out):
    grid = spanned(AXES)
    runner(grid, out, Fake()).run()
    before, again = pictures(out), Fake()
    progress = runner(grid, out, again).run()
    assert (progress.done, again.ran, again.queued) == (12, [], {})
    assert pictures(out) == before


def test_more_values_and_axes_run_new_cells_alone(out):
    first = spanned(AXES)
    runner(first, out, Fake()).run()
    before = pictures(out)
    axes = {"Prompt.text": ["a red cat, on a mat", "cat => dog"], **AXES, "KSampler.seed": [4, 3, 2, 1]}
    grid, server = spanned(axes), Fake()
    progress = runner(grid, out, server).run()
    assert (progress.total, progress.done) == (32, 32)
    assert len(server.ran) == 32 - 12
    assert pictures(out).items() > before.items()
    assert len(shown(out)[1]) == 32


def test_another_workflow_runs_anew_and_going_back_finds_the_old_pictures(out):
    runner(spanned(AXES), out, Fake()).run()
    before, changed = pictures(out), Fake()
    runner(spanned(AXES, set={"KSampler.steps": 9}), out, changed).run()
    assert len(changed.ran) == 12
    assert pictures(out).items() > before.items()
    back = Fake()
    runner(spanned(AXES), out, back).run()
    assert back.ran == []


def test_a_deleted_picture_is_made_again(out):
    grid = spanned(AXES)
    runner(grid, out, Fake()).run()
    before = pictures(out)
    (out / next(iter(before))).unlink()
    server = Fake()
    runner(grid, out, server).run()
    assert len(server.ran) == 1
    assert pictures(out) == before


def test_failed_cells_keep_their_errors_and_are_tried_again(out):
    grid, server, heard = spanned({"KSampler.cfg": [5, 66, 7], "KSampler.steps": [1, 13]}), Fake(), []
    progress = runner(grid, out, server).run(lambda progress, sentence: heard.append(sentence))
    assert (progress.done, progress.failed, progress.left) == (2, 4, 0)
    assert "66, 1: KSampler: the number is unlucky." in heard
    assert "5, 13: KSampler: steps is 13, which nobody wants." in heard
    _, cells = shown(out)
    assert cells[2] == {"error": "KSampler: the number is unlucky.", "seconds": 0.5}
    assert cells[1] == {"error": "KSampler: steps is 13, which nobody wants."}
    again = Fake()
    assert runner(grid, out, again).run().failed == 4
    assert len(again.ran) == 1


class Killed(BaseException):
    pass


class Dying(Fake):
    """Its runner is killed after some cells; the server runs what is in its queue."""

    def __init__(self, cells):
        super().__init__()
        self.cells = cells

    def finished(self, prompt_ids):
        if len(self.ran) == self.cells:
            raise Killed
        return super().finished(prompt_ids)


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("cells", range(0, 12, 3))
def test_a_killed_run_goes_on_and_takes_over_what_is_queued(out, tmp_path, cells, drained):
    """The cells in the queue may wait still, or have run meanwhile."""
    grid, server = spanned(AXES), Dying(cells)
    with pytest.raises(Killed):
        runner(grid, out, server).run()
    with (out / "cells.jsonl").open("ab") as journal:
        journal.write(b'{"cell": "cut o')
    assert len(server.queued) == 2
    server.cells = None
    for prompt_id in [*server.queued] if drained else []:
        server.finished([prompt_id])
    progress = runner(grid, out, server).run()
    assert (progress.done, progress.left) == (12, 0)
    assert len(server.ran) == len({expand.digest(graph) for graph in server.ran}) == 12
    assert server.queued == {}
    runner(grid, tmp_path / "undisturbed", Fake()).run()
    assert pictures(out) == pictures(tmp_path / "undisturbed")
    assert shown(out)[1].keys() == set(range(12))


def test_a_line_that_a_crash_cut_off_costs_no_other(out):
    folder.claim(out)
    folder.Folder(out).add("a", "done", files=[])
    with (out / "cells.jsonl").open("ab") as journal:
        journal.write(b'{"cell": "b", "sta')
    folder.Folder(out).add("c", "failed", error="x")
    again = folder.Folder(out)
    assert (again.is_done("a"), again.record("b"), again.record("c")["error"]) == (True, {}, "x")


def test_a_server_that_forgot_the_queue_gets_its_cells_again(out):
    grid, server = spanned(AXES), Dying(4)
    with pytest.raises(Killed):
        runner(grid, out, server).run()
    another = Fake()
    assert runner(grid, out, another).run().done == 12
    assert len(another.ran) == 8


def test_ctrl_c_takes_the_cells_out_of_the_queue(out):
    class Stopped(Dying):
        def finished(self, prompt_ids):
            try:
                return super().finished(prompt_ids)
            except Killed:
                raise KeyboardInterrupt from None

    server = Stopped(5)
    with pytest.raises(KeyboardInterrupt):
        runner(spanned(AXES), out, server).run()
    assert (len(server.cancelled), server.queued) == (2, {})
    data, cells = shown(out)
    assert len(cells) == 5
    assert data["progress"]["running"] is False


def test_ctrl_c_also_takes_out_a_cell_that_was_just_queued(out):
    class Stopped(Fake):
        def queue(self, prompt_id, graph, workflow):
            super().queue(prompt_id, graph, workflow)
            raise KeyboardInterrupt

    server = Stopped()
    with pytest.raises(KeyboardInterrupt):
        runner(spanned(AXES), out, server).run()
    assert (len(server.cancelled), server.queued) == (1, {})


def test_cells_of_one_workflow_are_run_once(out):
    """Two values that come to the same, beside each other in the queue and apart from each other."""
    values = [{"title": title, "set": {"KSampler.cfg": cfg}} for title, cfg in (("a", 1), ("b", 1), ("c", 2), ("d", 1))]
    grid, server = spanned({"A": {"values": values}, "KSampler.seed": [1, 2, 3]}), Fake()
    progress = runner(grid, out, server).run()
    assert (progress.total, progress.done, progress.left) == (12, 12, 0)
    assert len(server.ran) == 6
    assert shown(out)[1].keys() == set(range(12))
    assert runner(grid, out, Fake()).run().done == 12


def test_a_failed_workflow_fails_all_its_cells(out):
    values = [{"title": title, "set": {"KSampler.cfg": 66}} for title in "ab"]
    server = Fake()
    progress = runner(spanned({"A": {"values": values}, "KSampler.seed": [1, 2, 3]}), out, server).run()
    assert (progress.failed, progress.left, len(server.ran)) == (6, 0, 3)


def test_several_files_have_numbers_and_texts_are_kept(out):
    grid = spanned({"Size.batch_size": [1, 3], "KSampler.steps": [4, 5]})
    runner(grid, out, Fake()).run()
    _, cells = shown(out)
    names = [name.rpartition("/")[2].split(".")[-2][8:] for name in cells[2]["files"]]
    assert names == ["-1", "-2", "-3"]
    assert len(cells[0]["files"]) == 1
    assert cells[1]["texts"] == {"Prompt": "seen <b>"}
    assert "seen \\u003cb>" in (out / "data.js").read_text()


@pytest.mark.parametrize(
    ("lost", "counts"), [({"1.png"}, (3, 0, 1, 4)), ({f"{number}.png" for number in range(20)}, (0, 3, 3, 6))]
)
def test_a_file_that_the_server_lost_is_made_again_once(out, lost, counts):
    grid, server = spanned({"KSampler.cfg": [1, 2, 3]}), Fake()
    server.lost = lost
    progress = runner(grid, out, server).run()
    assert (progress.done, progress.failed, server.forgotten, len(server.ran)) == counts


def test_a_workflow_that_saves_nothing_fails(out):
    class Silent(Fake):
        def _ran(self, graph, workflow):
            return run.Outcome({}, "", 1.0)

    assert runner(spanned({"KSampler.cfg": [1]}), out, Silent()).run().failed == 1
    assert shown(out)[1][0]["error"] == "The workflow ran and saved nothing."


def test_a_part_is_run_and_the_data_show_all(out):
    grid = spanned(AXES)
    progress = runner(grid, out, Fake(), expand.part(grid, ["KSampler.seed=2"])).run()
    assert (progress.total, progress.done) == (4, 4)
    progress = runner(grid, out, Fake(), expand.part(grid, ["KSampler.cfg=6"])).run()
    assert (progress.total, progress.done) == (6, 6)
    assert len(shown(out)[1]) == 8


def test_data_describe_axes_and_values(out):
    axes = {
        "Prompt.text": {"description": "Which?", "values": ["cat => <dog>", {"title": "long", "value": "x" * 400}]},
        "KSampler.cfg": [{"SKIP": 1}, 2],
    }
    runner(spanned(axes, title="<T>", view={"x": "KSampler.cfg"}), out, Fake()).run()
    data, cells = shown(out)
    assert (data["version"], data["title"], data["view"]) == (1, "<T>", {"x": 1})
    prompt, cfg = data["axes"]
    assert prompt["values"][0]["sets"] == {"Prompt.text": "cat => <dog>"}
    assert prompt["values"][1]["sets"] == {"Prompt.text": "x" * 400}
    assert [value["skip"] for value in cfg["values"]] == [True, False]
    assert cfg["default"] == 1
    assert cells.keys() == {1, 3}
    assert "<" not in (out / "data.js").read_text()


def test_scores_are_a_table_without_formulas(out):
    axes = {"Prompt.text": [{"title": "=1+1", "value": "a"}, {"title": "-5", "value": "b"}], "KSampler.cfg": [5, 66]}
    runner(spanned(axes), out, Fake()).run()
    with (out / "scores.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Prompt.text"] for row in rows] == ["'=1+1", "'=1+1", "-5", "-5"]
    assert [row["status"] for row in rows] == ["done", "failed"] * 2
    assert rows[1]["error"] == "KSampler: the number is unlucky."
    assert rows[0]["files"].endswith(".png")


def scored(*numbers):
    """What a node's output holds that scores, once for each item of a list."""
    return {output.NAME: list(numbers)}


def test_scores_reach_the_page_and_the_table(out):
    """CFG 7 has a score that 5 lacks, and the pictures stay where a cell has no score."""

    class Scoring(Fake):
        def _ran(self, graph, workflow):
            outcome, cfg = super()._ran(graph, workflow), graph["6"]["inputs"]["cfg"]
            more = {"lpips": 0.25} if cfg == 7 else {}
            scores = {"9": scored({"psnr": 10 * cfg, **more})} if cfg < 8 else {}
            return run.Outcome({**outcome.outputs, **scores}, "", outcome.seconds)

    grid = spanned({"KSampler.cfg": [5, 7, 9]})
    runner(grid, out, Scoring()).run()
    cells = shown(out)[1]
    assert [cells[number].get("scores") for number in range(3)] == [{"psnr": 50}, {"lpips": 0.25, "psnr": 70}, None]
    with (out / "scores.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["KSampler.cfg"], row["lpips"], row["psnr"]) for row in rows] == [
        ("5", "", "50.0"),
        ("7", "0.25", "70.0"),
        ("9", "", ""),
    ]
    before = (out / "scores.csv").read_bytes()
    runner(grid, out, Fake()).run()
    assert (out / "scores.csv").read_bytes() == before


def test_a_cell_may_give_scores_alone(out):
    class Bare(Fake):
        def _ran(self, graph, workflow):
            return run.Outcome({"9": scored({"psnr": 12.5})}, "", 0.25)

    progress = runner(spanned({"KSampler.cfg": [5]}), out, Bare()).run()
    assert (progress.done, shown(out)[1][0]) == (1, {"files": [], "seconds": 0.25, "scores": {"psnr": 12.5}})


def test_scores_of_several_nodes_are_told_apart():
    first, second = scored({"psnr": 1, "ssim": 0.5}), scored({"psnr": 2.5})
    assert run.saved_scores({"6": first, "7": second}, GRAPH) == {
        "KSampler: psnr": 1,
        "ssim": 0.5,
        f"{GRAPH['7']['_meta']['title']}: psnr": 2.5,
    }


def test_scores_over_a_list_are_their_mean():
    assert run.saved_scores({"6": scored({"psnr": 1}, {"psnr": 2, "ssim": 1})}, GRAPH) == {"psnr": 1.5, "ssim": 1}


@pytest.mark.parametrize(
    "parts",
    [{}, {"text": ["a"]}, scored(), scored("a"), {output.NAME: {"psnr": 1}}]
    + [scored({"psnr": value}) for value in (None, True, "1", [1], float("nan"), float("inf"))],
)
def test_what_is_no_number_is_no_score(parts):
    assert run.saved_scores({"6": parts}, GRAPH) == {}


def test_foreign_folders_are_never_written_to(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(GridError, match="holds files that no grid made"):
        folder.claim(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(GridError, match="cannot be used"):
        folder.claim(tmp_path / "mine.txt")


def test_a_damaged_marker_is_said(tmp_path):
    folder.claim(tmp_path / "a")
    for text in ("", "[]", '{"id": "../x"}', '{"id": 5}'):
        (tmp_path / "a" / folder.MARKER).write_text(text)
        with pytest.raises(GridError, match="is damaged"):
            folder.Folder(tmp_path / "a")


def test_suffixes_are_endings_alone():
    names = ["a.PNG", "b.mp4", "c", "d.tar.gz", "e./../../x", "f.<script>", "g.averylongending"]
    assert [run.suffix(name) for name in names] == [".png", ".mp4", ".bin", ".gz", ".bin", ".bin", ".bin"]


def test_previews_count_where_nothing_is_saved():
    preview, saved = ({"filename": "a.png", "type": kind} for kind in ("temp", "output"))
    assert run.saved_files({"1": {"images": [preview]}})[0]["type"] == "temp"
    assert [file["type"] for file in run.saved_files({"1": {"images": [preview]}, "2": {"gifs": [saved]}})] == [
        "output"
    ]
    assert run.saved_files({"1": {"text": ["a"], "n": 5, "input": [{"filename": "x", "type": "input"}]}}) == []


def test_memory_does_not_grow_with_the_pictures(out):
    """Three hundred pictures of 100 kB through one run."""

    class Large(Fake):
        def _ran(self, graph, workflow):
            return run.Outcome({"8": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}, "", 1.0)

        def fetch(self, file):
            return bytes(100_000)

        def finished(self, prompt_ids):
            outcomes = super().finished(prompt_ids)
            self.over.clear()
            return outcomes

    work = runner(spanned({"KSampler.seed": "1, ..., 300"}), out, Large())
    tracemalloc.start()
    try:
        work.run()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_viewers_data_are_whole_at_any_time(out):
    seen = []

    class Watching(Fake):
        def fetch(self, file):
            seen.append(len(shown(out)[1]))
            return super().fetch(file)

    work = runner(spanned(AXES), out, Watching())
    work.folder._next_data = 0
    work.run()
    assert len(seen) == 12
    assert not list(out.rglob("*.part"))


def test_graphs_are_not_written_to(out):
    copy = json.loads(json.dumps(GRAPH))
    runner(spanned(AXES), out, Fake()).run()
    assert copy == GRAPH
    assert INFO["KSampler"]["output"] == ["LATENT"]
