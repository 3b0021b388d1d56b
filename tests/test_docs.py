"""README and docs tell the truth: their blocks are the repository's files, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import gkd
from gkd.commands.grid_cells import rows, section
from gkd.config.load import load
from gkd.config.shipped import shipped_configs
from gkd.storage.json_files import read_json, write_json
from tests.cli_helpers import gkd as gkd_verb
from tests.cli_helpers import write_folders
from tests.library_caches import empty_caches, in_hubs_cache
from tests.scripts import script

ROOT = Path(__file__).parent.parent
embed = script("docs/embed.py")
PAGES = [*embed.PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_are_the_files_that_they_name(path):
    text = path.read_text()
    assert embed.refreshed(text) == text, "run python docs/embed.py"


def test_the_benchmarks_open_with_a_table_of_every_papers_grid():
    opening = (ROOT / "docs" / "benchmarks.md").read_text().partition("\n## ")[0]
    table = [line for line in opening.splitlines() if line.startswith("| ")]
    assert table[0].startswith("| benchmark | config | methods | published by | measured so far |")
    papers = [name for name in shipped_configs() if name.startswith("paper/")]
    rows_of = {name: [line for line in table if f"[`{name}`]" in line] for name in papers}
    assert all(len(lines) == 1 for lines in rows_of.values())
    unseen = {name for name, (line,) in rows_of.items() if "| none seen |" in line}
    assert unseen == {name for name in papers if section(load(name)).published is None}


def test_a_grid_that_stands_in_part_has_no_cost_of_the_whole(tmp_path, monkeypatch):
    made = script("docs/benchmark_table.py")
    compare = section(load("quickstart"))
    (tmp_path / "results").mkdir()
    table = tmp_path / "results" / "table.json"
    monkeypatch.setattr(made, "_table_of", lambda name: table)
    monkeypatch.setattr(made, "ROOT", tmp_path)
    labels, (values,) = [row.label for row in rows(compare)], compare.axes.values()
    lines = [
        {"axes": {"task.shift": shift}, "label": label, "n": len(compare.seeds), "seconds": 60.0}
        for shift in values
        for label in labels
    ]
    write_json(table, {"rows": lines})
    number = len(lines) * len(compare.seeds)
    whole = f"{number} min" if number < 60 else f"{number / 60:.1f} h"
    shown = f"[all {number} cells](../results/table.md)"
    assert made._measured("quickstart", compare) == (shown, whole)
    write_json(table, {"rows": lines[1:]})
    assert made._measured("quickstart", compare)[1].startswith("not measured; ")
    absent = {"axes": lines[0]["axes"], "label": lines[0]["label"], "absent": "no class is shared"}
    write_json(table, {"rows": [absent, *lines[1:]]})
    assert made._measured("quickstart", compare)[0].startswith(f"[all {number - len(compare.seeds)} cells]")


def test_the_readme_shows_the_quickstart():
    expected = ["benchmarks/results/quickstart/table.md", "configs/quickstart.yaml"]
    assert embed.sources((ROOT / "README.md").read_text()) == expected


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_names_a_machine_path(path):
    assert not re.search(r"(^|[\s`(])/(home|root|tmp|work|opt)/", path.read_text())


def test_the_python_of_the_readme_runs(make_set, tmp_path, monkeypatch):
    """On plain modules and few epochs; what it names is the reader's own."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    short = 'run={"seed": 1, "epochs": 2, "threads": 1}, **{"teacher.train.epochs": 1}'
    for words, fewer in (("epochs=100", "epochs=2"), ('run={"seed": 1}', short)):
        assert block.count(words) == 1
        block = block.replace(words, fewer)
    student, teacher = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4)) for width in (8, 16)
    )
    names = {
        "student": student,
        "teacher": teacher,
        "images": make_set("abcd", 40),
        "test_images": make_set("abcd", 12),
    }
    exec(block, names)
    losses = names["distiller"](gkd.Batch(torch.rand(8, 1, 8, 8), torch.arange(8) % 4))
    assert losses["loss"].requires_grad
    assert names["outcome"].metrics["test/last"] > 0


def test_the_blocks_on_teachers_run(tmp_path, monkeypatch):
    """With random weights in the place of the library's, on small photographs and for two epochs."""
    monkeypatch.chdir(tmp_path)
    in_hubs_cache(
        empty_caches(tmp_path / "caches", monkeypatch),
        "timm/resnet10t.c3_in1k",
        timm.create_model("resnet10t"),
    )
    write_folders(Path("photos"), {"n01440764_tench": 8, "n01443537": 8}, side=64)
    page = (ROOT / "docs" / "teachers.md").read_text()
    assert page.count("\n") <= 40
    (config,), (commands,) = (
        re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("yaml", "bash")
    )
    assert config.count("epochs: 100") == 1
    Path("small.yaml").write_text(config.replace("epochs: 100", "epochs: 2, threads: 1"))
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "gkd"
        assert gkd_verb(*words) == 0, line
    environments = [read_json(path, keys=()) for path in Path("runs").rglob("env.json")]
    assert all("apache-2.0" in each["published_weights"]["teacher"] for each in environments)
    finished = [
        read_json(path, keys=("relation",))["relation"] for path in Path("runs").rglob("summary.json")
    ]
    assert sorted((each["kind"], each["shared"]) for each in finished) == [("none", 0), ("overlapping", 2)]


# What a stranger looks for: any of these files, reached from README.md over three links or fewer.
SOUGHT = {
    "the loop": ["gkd/training/loop.py"],
    "a loss": ["gkd/losses/*.py"],
    "a task": ["tasks/*.py"],
    "a method": ["configs/methods/*.yaml"],
    "the plug-in example": ["examples/plugin", "examples/plugin/*"],
}


def linked(page):
    """The files and folders that a page links to; another kind of file leads no further."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()) if page.suffix == ".md" else []
    return {(page.parent / target).resolve() for target in targets}


def reached(start, steps):
    """What is reached from a page over at most this many links."""
    pages = {start}
    for _ in range(steps):
        pages |= {target for page in pages if page.is_file() for target in linked(page)}
    return pages


@pytest.mark.parametrize("what", SOUGHT)
def test_a_stranger_walks_there_from_the_readme(what):
    sought = {
        path.resolve()
        for pattern in SOUGHT[what]
        for path in ROOT.glob(pattern)
        if path.name != "__init__.py"
    }
    assert sought, f"no file of {SOUGHT[what]}"
    assert sought & reached(ROOT / "README.md", 3)


def test_what_takes_more_links_is_not_reached(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.md").write_text(f"[on]({number + 1}.md)")
    (tmp_path / "4.md").write_text("the end")
    assert tmp_path / "3.md" in reached(tmp_path / "0.md", 3)
    assert tmp_path / "4.md" not in reached(tmp_path / "0.md", 3)


def test_pictures_are_drawn_from_the_results_that_stand():
    pictures = script("docs/pictures.py")
    for picture in pictures.PICTURES:
        assert pictures.checksum(picture) in (ROOT / picture).read_text(), "run python docs/pictures.py"


def test_the_readmes_table_is_of_the_quickstart_as_it_is():
    made = read_json(ROOT / "benchmarks/results/quickstart/table.json", keys=["rows"])["rows"]
    compare = section(load("quickstart"))
    (values,) = compare.axes.values()
    assert {row["label"] for row in made} == {row.label for row in rows(compare)}
    assert {row["axes"]["task.shift"] for row in made} == set(values)
    assert {tuple(row["seeds"]) for row in made if "seeds" in row} == {compare.seeds}
