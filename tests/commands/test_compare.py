"""Grids: killed and repeated they give the same table; another method runs only what is missing."""

import io
import json
import shutil
import signal
import time
from contextlib import ExitStack, chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import save_file

from gkd.commands.compare import solve
from gkd.commands.grid_cells import cells, count, section
from gkd.commands.grid_places import Places
from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.experiment.run_folder import locked, run_folder, table_names
from gkd.models import build_network
from gkd.storage.json_files import Damaged
from tests.cli_helpers import FAST, gkd, start
from tests.refusals import refused

GRID = (
    "compare", "cross_task/digits", *FAST, "compare.seeds=[0, 1]", "compare.axes={task.shift: [0, 5]}",
    "compare.results=table", "run.precision=float32",
)  # fmt: skip
METHODS = "compare.methods=[student, kd, sp]"


def rows(folder):
    table = json.loads((folder / "table" / "table.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if "second" not in key} for row in table]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A grid that nobody interrupted."""
    folder = tmp_path_factory.mktemp("grid")
    process = start(*GRID, METHODS, cwd=folder)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder, printed


def test_the_table_shows_each_relation_and_why_a_method_is_absent(whole):
    folder, printed = whole
    assert "| same |" in printed
    assert "| disjoint |" in printed
    assert "kd is absent where the classes are disjoint" in printed
    assert {path.name for path in (folder / "table").iterdir()} == {
        "cells",
        "table.md",
        "table.csv",
        "table.json",
    }
    assert len(list((folder / "table" / "cells").glob("*-seed*.json"))) == 10


def test_what_all_cells_share_is_printed_once(whole):
    _, printed = whole
    shared = [line for line in printed.splitlines() if line.startswith(("data  ", "machine  ", "teacher  "))]
    assert "data      25 training images of 1x8x8 in memory (1.5e-06 GiB)" in shared
    assert (
        sum("of the 271 test images of its 5 classes" in line for line in shared) == 1
    )  # one teacher, two relations
    assert len(set(shared)) == len(shared)
    assert printed.count("Test accuracy in percent, mean ± std over n seeds") == 1


def test_a_killed_grid_continues_to_the_same_table(whole, tmp_path):
    process = start(*GRID, METHODS, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("table/cells/*.json"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = start(*GRID, METHODS, cwd=tmp_path)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert rows(tmp_path) == rows(whole[0])
    assert "10 cells, 10 cells" not in printed  # those before the kill were not repeated


def test_a_repeated_grid_trains_nothing_even_elsewhere(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole[0] / "table", tmp_path / "table")  # committed cells, without their runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gkd.experiment.sources._read_source", None)  # nor are the images needed
    assert gkd(*GRID, METHODS) == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_another_method_runs_only_what_is_missing(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert gkd(*GRID, "compare.methods=[student, kd, sp, refilled_joint]") == 0
    assert "14 cells, 4 cells trained now" in capsys.readouterr().out


def test_finished_reads_what_is_there_and_runs_nothing(whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "table" / "cells").mkdir(parents=True)
    for path in sorted((whole[0] / "table" / "cells").glob("*seed0.json")):
        shutil.copy(path, tmp_path / "table" / "cells")
    monkeypatch.chdir(tmp_path)
    assert gkd(*GRID, METHODS, "--finished") == 0
    assert "5 cells, nothing was trained, 7 missing" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("taken", "given"), [("student-*seed0", "student-*seed1"), ("kd-*seed0", "student-*seed0")]
)
def test_a_cell_in_the_place_of_another_is_named(whole, tmp_path, monkeypatch, taken, given):
    shutil.copytree(whole[0] / "table", tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    cells = tmp_path / "table" / "cells"
    place, other = (next(iter(sorted(cells.glob(f"{name}.json")))) for name in (taken, given))
    shutil.copy(other, place)
    resolved = load("cross_task/digits", [*GRID[2:], METHODS])
    with refused("another-cell") as told:
        solve(resolved, Console(quiet=True), finished_only=True)
    assert place.name in str(told.value)


@pytest.fixture(scope="module")
def two_cells(tmp_path_factory):
    """A grid of two cells, solved while another process held the first; its folder, and what was printed."""
    words = (
        "compare.methods=[student]", "compare.seeds=[0, 1]", "compare.axes={task.shift: [0]}", "run.epochs=2",
        "run.threads=1", "data.per_class=4", "compare.results=table",
    )  # fmt: skip
    resolved = load("cross_task/digits", words)
    folder, printed, other = tmp_path_factory.mktemp("two"), [], ExitStack()
    with chdir(folder):
        first, second = [run_folder(cell.resolved) for cell in cells(resolved)]
        other.enter_context(locked(first, None))

        class Printed(io.StringIO):
            def write(self, text):
                printed.append(text)
                if "waiting for the process" in text:
                    assert (second / "summary.json").is_file()  # the free cell was taken first
                    other.close()
                return len(text)

        solved = solve(resolved, Console(file=Printed(), width=200))
    return folder, resolved, solved, "".join(printed)


def test_a_cell_at_which_another_process_is_at_work_comes_last_and_is_waited_for(two_cells):
    _, _, solved, printed = two_cells
    assert [cell.seed for cell in solved.cells] == [0, 1]
    assert solved.trained == 2
    assert printed.count("waiting for the process") == 1


@pytest.mark.parametrize("damage", ["flipped", "cut short", "of an earlier gkd"])
def test_a_damaged_cell_is_made_anew_of_its_run(two_cells, tmp_path, monkeypatch, damage):
    folder, resolved, before, _ = two_cells
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    path, _ = sorted(Path("table", "cells").iterdir())
    text, content = path.read_text(), json.loads(path.read_text())
    number = f'"accuracy": {content["last"]["accuracy"]}'
    if damage == "of an earlier gkd":
        path.write_text(json.dumps({key: value for key, value in content.items() if key != "manifest"}))
    else:
        path.write_text(text.replace(number, '"accuracy": 99.0') if damage == "flipped" else text[:-300])
    printed = io.StringIO()
    solved = solve(resolved, Console(file=printed, width=200))
    assert solved.cells == before.cells
    assert solved.trained == 0
    if damage == "of an earlier gkd":
        assert printed.getvalue().count("1 of 2 cells are from an earlier gkd, without checksums") == 1
        return
    assert "is damaged" in printed.getvalue()
    assert json.loads(path.read_text()) == content
    path.write_text(text[:-300])
    shutil.rmtree("runs")
    with pytest.raises(Damaged, match=r"is damaged\. Remove it, and repeat the command"):
        solve(resolved, Console(file=printed))


STATED = """
extends: cross_task/digits
run: {epochs: 2, threads: 1}
compare:
  methods: [student]
  seeds: [0, 1]
  axes: {task.shift: [0]}
  results: committed
"""


def test_what_overrides_change_stays_out_of_the_committed_table(tmp_path, monkeypatch):
    """Parts of the stated grid fill its cells; its table is written by the grid as the file states it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STATED)
    committed, runs = tmp_path / "committed", tmp_path / "runs" / "mine"
    assert gkd("compare", "mine.yaml", "compare.seeds=[0]") == 0
    assert [path.name for path in committed.iterdir()] == ["cells"]
    assert len(list(runs.glob("table-compare.seeds=_0-*/table.md"))) == 1
    assert gkd("compare", "mine.yaml", "run.log_seconds=5") == 0  # changes no result
    table = (committed / "table.md").read_text()
    assert "| 2 |" in table
    assert gkd("compare", "mine.yaml", "optimiser.lr=0.01") == 0
    assert gkd("compare", "mine.yaml", "compare.report=best", "--finished") == 0
    assert (committed / "table.md").read_text() == table
    assert len(list((committed / "cells").iterdir())) == 2
    assert len(list((runs / "table-optimiser.lr=0.01" / "cells").iterdir())) == 2
    assert gkd("compare", "mine.yaml", "optimiser.lr=0.01", "compare.results=elsewhere") == 0
    assert len(list((tmp_path / "elsewhere" / "cells").iterdir())) == 2


def test_each_variation_of_a_grid_without_results_has_its_own_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STATED.replace("  results: committed\n", ""))
    assert gkd("compare", "mine.yaml") == 0
    table = (tmp_path / "runs" / "mine" / "table" / "table.md").read_text()
    assert gkd("compare", "mine.yaml", "compare.seeds=[0]") == 0
    assert (tmp_path / "runs" / "mine" / "table" / "table.md").read_text() == table
    assert len(list((tmp_path / "runs" / "mine").glob("table-compare.seeds=_0-*/table.md"))) == 1


def test_a_tuning_table_shows_validation_and_no_test_number(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole[0] / "table", tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    assert gkd(*GRID, METHODS, "compare.report=validation") == 0
    printed = capsys.readouterr().out
    assert "| validation |" in printed
    cell = json.loads(next(tmp_path.glob("table/cells/sp-shift=5*seed0.json")).read_text())
    assert f"{cell['last']['accuracy']:.2f}" not in printed.split("\n\n")[0]


def test_a_short_table_is_of_the_same_cells(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole[0] / "table", tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    assert gkd(*GRID, METHODS, "compare.table=short", "--finished") == 0
    printed = capsys.readouterr().out
    assert "| relation | method | teacher | student alone | distilled | Δ to student | s |" in printed
    assert printed.count("\n| ") == 4  # the head, kd once, sp twice
    assert "| disjoint | kd | – |" in printed


def test_each_shared_teacher_is_trained_once(whole):
    teachers = list((whole[0] / "runs" / "teachers").rglob("summary.json"))
    assert len(teachers) == 1


def test_a_labelled_variant_is_a_row_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    variant = "{label: sp strong, method: sp, set: {method.stages.distil.terms.sp.weight: 9000}}"
    assert gkd(*GRID, "compare.seeds=[0]", f"compare.methods=[student, sp, {variant}]") == 0
    assert "sp strong" in capsys.readouterr().out
    cell = json.loads(next(tmp_path.glob("table/cells/sp_strong-shift=5*")).read_text())
    assert cell["label"] == "sp strong"
    assert cell["method"] == "sp"


def test_a_row_changes_a_term_wherever_the_method_has_it():
    variant = "{label: thin, method: ft, terms: {ft: {rate: 0.25}}}"
    grid = load("cross_task/digits").with_overrides([f"compare.methods=[student, {variant}]"])
    cell = next(cell for cell in cells(grid) if cell.label == "thin")
    stages = cell.resolved.experiment.method.stages.values()
    assert [stage.terms["ft"].options["rate"] for stage in stages] == [0.25, 0.25]


def test_a_row_may_have_the_first_of_the_seeds_alone():
    methods = "compare.methods=[student, {label: few, method: sp, seeds: 1}]"
    resolved = load(
        "cross_task/digits", [methods, "compare.seeds=[3, 4]", "compare.axes={task.shift: [0, 2]}"]
    )
    grid = list(cells(resolved))
    seeds = [(cell.label, cell.seed) for cell in grid]
    assert seeds == [("student", 3), ("few", 3)] * 2 + [("student", 4)] * 2
    assert len(grid) == count(section(resolved))
    with refused("invalid-config"):  # each difference is of one seed
        load(
            "quickstart",
            ["compare.methods=[{label: student, method: student, seeds: 1}, sp]", "compare.seeds=[3, 4]"],
        )


def test_a_row_that_changes_a_term_that_is_not_there_is_refused(capsys):
    variant = "{label: thin, method: ft, terms: {tf: {rate: 0.25}}}"
    assert gkd("compare", "cross_task/digits", f"compare.methods=[student, {variant}]") == 2
    assert "Row 'thin': Unknown term of the method 'ft' 'tf'. Did you mean 'ft'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Cut at sixty characters, they are the same.
        (["task={name: cross_task, size: 5, shift: 0, order: natural, number: 100001}"],
         ["task={name: cross_task, size: 5, shift: 0, order: natural, number: 100002}"]),
        # The last two parts of a key, and what of a value a folder's name may hold.
        (["method.stages.embedding.terms.tuples.weight=2"], ["method.stages.classifier.terms.tuples.weight=2"]),
        (["data.root=a/b"], ["data.root=a_b"]),
        (["data.augment=crop+flip"], ["data.augment=crop_flip"]),
        (["data.per_class=5", "data.views=2"], ["data.per_class=5_data.views=2"]),
    ],
)  # fmt: skip
def test_two_grids_whose_overrides_differ_have_two_tables(one, other):
    (name, former), (second, of_second) = table_names(one), table_names(other)
    assert former == of_second  # what earlier versions called both
    assert name != second
    assert name.startswith(former)
    assert table_names([*one, "run.device=cpu", "run.out=elsewhere"])[0] == name
    assert table_names(list(one))[0] == name


def test_a_table_whose_name_says_all_keeps_it():
    assert table_names([]) == ("table", "table")
    assert table_names(["optimiser.lr=0.01", "run.threads=2"]) == ("table-optimiser.lr=0.01",) * 2


def test_cells_are_found_under_the_names_that_earlier_versions_gave_them(two_cells, tmp_path, monkeypatch):
    """In the folder of the table, and beside the runs in a folder whose name was cut; nothing there is rewritten."""
    folder, resolved, solved, _ = two_cells
    names = next(cells(resolved)).resolved.identities
    former = replace(names, identity="0123456789", former=(names.identity,))
    monkeypatch.setattr(Resolved, "identities", former)
    before = {path.name: path.read_bytes() for path in (folder / "table" / "cells").iterdir()}
    with chdir(folder):
        again = solve(resolved, Console(quiet=True), finished_only=True)
    assert [cell.correct for cell in again.cells] == [cell.correct for cell in solved.cells]
    assert {path.name: path.read_bytes() for path in (folder / "table" / "cells").iterdir()} == before
    beside = Places(tmp_path / "new", tmp_path / "new", None, tmp_path / "new", tmp_path / "former")
    names = ["new.json", "old.json"]
    assert beside.cell(names) == tmp_path / "new" / "cells" / "new.json"
    (tmp_path / "former" / "cells").mkdir(parents=True)
    (tmp_path / "former" / "cells" / "old.json").write_text("{}")
    assert beside.cell(names) == tmp_path / "former" / "cells" / "old.json"


def test_rows_that_share_a_file_keep_their_labels(two_cells):
    """Labels that differ in what a file name cannot show, of one identity."""
    folder, resolved, _, _ = two_cells
    labels = ("same method", "same_method", "same/method")
    rows_of_one = [{"label": label, "method": "student"} for label in labels]
    with chdir(folder):
        words = [f"compare.methods={json.dumps(rows_of_one)}", f"compare.baseline={labels[0]}"]
        grid = resolved.with_overrides(words)
        assert len({cell.file_name for cell in cells(grid)}) == 2
        solved = solve(grid, Console(quiet=True))
    assert [cell.label for cell in solved.cells] == [*labels, *labels]
    assert solved.trained == 0


LATE = {
    "a teacher's file that is not there": ("teacher.checkpoint=nowhere.pth", "nowhere.pth does not exist"),
    "a teacher's file of other classes": (
        "teacher.checkpoint=other.safetensors",
        "knows 3 classes, but the task",
    ),
    "a teacher of another network": ("teacher.checkpoint=network.safetensors", "was trained as 'resnet14'"),
    "a user's module that is not there": ("teacher.network=nowhere:net", "nowhere"),
    "options that the teacher does not have": ("teacher.options={widht: 2}", "widht"),
    "images that the teacher cannot take": (
        "teacher.network=timm/vit_tiny_patch16_224",
        "takes no images of 8×8 pixels",
    ),
    "a teacher's training that cannot be": ("teacher.train.method=sp", "needs a teacher itself"),
}


@pytest.mark.parametrize("what", LATE)
def test_what_a_later_row_would_meet_is_refused_before_the_first_cell(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, network, classes in (("other", "resnet8x4", 3), ("network", "resnet14", 5)):
        weights = build_network(network, num_classes=classes, in_channels=1).state_dict()
        facts = {"network": network, "classes": json.dumps([str(number) for number in range(classes)])}
        save_file(weights, f"{name}.safetensors", facts)
    word, sentence = LATE[what]
    rows = "compare={methods: [student, sp], seeds: [0]}"
    assert gkd("compare", "cross_task/digits", rows, "run.epochs=2", "run.threads=1", word) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Row 'sp'" in error or "options" in what  # which the config's own check names
    assert not list(Path().rglob("summary.json"))  # the student alone was not trained


def test_an_axis_whose_second_value_cannot_be_is_refused_before_the_first_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = "compare={methods: [student], seeds: [0], axes: {data.per_class: [5, 100000]}}"
    assert gkd("compare", "cross_task/digits", axes, "run.epochs=2", "run.threads=1") == 2
    assert "fewer than the 100000 asked for" in capsys.readouterr().err
    assert not list(Path().rglob("summary.json"))


TWO_PAIRS = (
    "compare.pairs={alike: {teacher.network: resnet14}, wide: {teacher.network: resnet8x4}}",
    "compare.methods=[student, fsp]", "compare.seeds=[0]", "compare.axes={task.shift: [0]}", "run.epochs=2",
    "run.threads=1",
)  # fmt: skip


def test_a_pair_that_a_method_cannot_take_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gkd("compare", "cross_task/digits", *TWO_PAIRS, "compare.results=table") == 2
    printed = capsys.readouterr().out
    told = printed.index("failed    Row 'fsp', pair wide, shift 0: ")
    assert told < printed.index("[1/4]")  # before hours of training
    # The student alone is one run beside both teachers.
    assert "3 cells, 2 cells trained now, 1 missing, 1 failed" in printed
    assert "Failed: Row 'fsp', pair wide, shift 0: " in (tmp_path / "table" / "table.md").read_text()
    assert gkd("compare", "cross_task/digits", *TWO_PAIRS, "compare.results=table") == 2
    assert "3 cells, nothing was trained, 1 missing, 1 failed" in capsys.readouterr().out


def test_a_row_with_a_finished_seed_is_checked_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("compare", "cross_task/digits", *TWO_PAIRS[:2], *TWO_PAIRS[3:], "compare.results=table")
    assert gkd(*words, "compare.seeds=[0]") == 2
    (cell,) = Path("table/cells").glob("fsp-pair=alike*seed0.json")
    # As if the pair that cannot be had once been trained.
    resolved = load("cross_task/digits", [*words[2:], "compare.seeds=[0, 1]"])
    wide = next(each for each in cells(resolved) if each.label == "fsp" and each.axes["pair"] == "wide")
    shutil.copy(cell, Path("table/cells") / wide.file_name)
    capsys.readouterr()
    assert gkd(*words, "compare.seeds=[0, 1]") == 2
    printed = capsys.readouterr().out
    assert "failed    Row 'fsp', pair wide, shift 0: " in printed
    assert "1 missing, 1 failed" in printed


def test_a_run_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "compare.methods=[{label: hot, method: student, set: {optimiser.lr: 1e18}}, student]", "compare.seeds=[0]",
        "compare.axes={task.shift: [0]}", "run.epochs=3", "run.threads=1", "compare.results=table",
    )  # fmt: skip
    assert gkd("compare", "cross_task/digits", *words) == 2
    printed = capsys.readouterr().out
    assert "1 cells, 1 cells trained now, 1 missing, 1 failed" in printed
    assert "Failed: 'hot', shift 0, seed 0: " in (tmp_path / "table" / "table.md").read_text()
    assert gkd("compare", "cross_task/digits", *words, "compare.baseline=hot", "--finished") == 0


def test_where_all_fail_there_is_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "compare.methods=[student]",
        "compare.seeds=[0]",
        "compare.axes={task.shift: [0]}",
        "optimiser.lr=1e18",
    )
    assert gkd("compare", "cross_task/digits", *words, "run.epochs=3", "compare.results=table") == 2
    assert "'student', shift 0, seed 0: " in capsys.readouterr().err
    assert not (tmp_path / "table" / "table.md").exists()


def test_published_numbers_stand_beside_the_grids_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "extends: cross_task/digits\n"
        "run: {epochs: 2, threads: 1}\n"
        "compare:\n"
        "  {methods: [student, sp], seeds: [0], axes: {task.shift: [0, 5]}, published: published.csv, results: table}\n"
    )
    head = "config,method,task.shift,accuracy,std,source\n"
    Path("published.csv").write_text(f"{head}mine,sp,0,1.5,0.1,a paper\nmine,student,,50,60,a paper\n")
    words = ("compare", "mine.yaml")
    assert gkd(*words) == 0
    printed = capsys.readouterr().out
    assert "| published | Δ to published | n | s |" in printed
    assert (
        "2 of 3 within noise of the published numbers: within two published standard deviations. *: outside."
        in printed
    )
    rows = {(row["label"], row["axes"]["task.shift"]): row for row in table_rows_of("table")}
    assert rows["sp", 0]["published"] == 1.5
    assert rows["sp", 0]["within_noise"] is False
    assert "published" not in rows["sp", 5]
    assert rows["student", 5]["to_published"] == pytest.approx(rows["student", 5]["mean"] - 50)
    assert gkd(*words, "compare.table=short") == 0
    assert "Published numbers stand in full tables of test results alone." in capsys.readouterr().out
    # A part of the grid is compared with its part of the file.
    assert gkd(*words, "compare.methods=[student]") == 0
    Path("published.csv").write_text(f"{head}mine,sp,7,1.5,0.1,a paper\n")
    assert gkd(*words) == 2
    assert "a number of 'sp', task.shift 7, which is no cell of mine" in capsys.readouterr().err


def table_rows_of(folder: str) -> list[dict[str, Any]]:
    """The rows of a table with their axes."""
    rows: list[dict[str, Any]] = json.loads((Path(folder) / "table.json").read_text())["rows"]
    return rows
