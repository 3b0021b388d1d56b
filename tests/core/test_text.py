"""Every nasty name on the terminal, as a file, in a plot, in Markdown and in CSV; and nothing is shown past these."""

from __future__ import annotations

import ast
import csv
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.console import Console

from gkd.core.text import (
    code_in_markdown,
    decoded,
    for_csv,
    for_file_name,
    for_markdown,
    for_plot,
    for_terminal,
    say,
    visible,
)
from tests.nasty_names import NASTY

ROOT = Path(__file__).resolve().parents[2]
nasty = pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
ORDINARY = ("cat", "ice cream", "kd_standardised", "naïve café", "猫", "n02119789-red_fox", "a:b", "5 % ± 1")


def hidden(text: str) -> list[str]:
    """The characters of a text that a terminal obeys rather than shows."""
    return [
        each
        for each in text
        if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") and each != "\u200c"
    ]


def test_what_cannot_be_seen_becomes_its_escape() -> None:
    assert visible("a\x1b[2J\n\x9b\u202eb\0\udce9") == r"a\x1b[2J\n\x9b\u202eb\x00\udce9"
    assert visible("a\nb\r", keep="\n") == "a\nb\\r"
    assert visible("گربه\u200cها\u3000猫") == "گربه\u200cها\u3000猫"  # a joiner and a wide space hide nothing
    assert decoded("caf\udce9") == r"caf\xe9"
    assert decoded("naïve") == "naïve"


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert {name} == {
        visible(name), decoded(name), for_terminal(name), for_file_name(name), for_plot(name), for_markdown(name),
        for_csv(name),
    }  # fmt: skip


@nasty
def test_a_console_shows_the_name_and_obeys_nothing(name: str) -> None:
    for encoding in ("utf-8", "ascii", "latin-1"):
        raw = io.BytesIO()
        console = Console(file=io.TextIOWrapper(raw, encoding), force_terminal=True, width=40)
        say(console, f"class {name} 12 ± 3 %", wrap=False)
        console.file.flush()
        shown = raw.getvalue().decode(encoding)
        assert hidden(shown.replace("\n", "")) == []
        if encoding == "utf-8":
            assert shown == f"class {visible(name, keep=chr(10))} 12 ± 3 %\n"
    assert shown.endswith("12 ± 3 %\n")  # latin-1 has the sign
    assert for_terminal("Δ 1 ± 2", "ascii") == "difference 1 +/- 2"


def test_long_lines_are_broken_at_spaces_on_a_terminal_alone() -> None:
    line = "note      " + "some words of it " * 20 + "runs/" + "x" * 120
    for columns, terminal, most in ((80, True, 80), (300, True, 100), (80, False, None)):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=columns, no_color=True)
        say(console, f"{line}\nshort")
        lines = out.getvalue().splitlines()
        assert lines[-1] == "short"
        assert " ".join(out.getvalue().split()) == " ".join(f"{line} short".split())
        if most is None:
            assert lines[0] == line
            continue
        *wrapped, path, _ = lines
        assert max(map(len, wrapped)) <= most
        assert all(each.startswith("          some") or each[:10].isspace() for each in wrapped[1:])
        assert path.strip() == "runs/" + "x" * 120, "it can be copied"


def test_a_file_name_is_one_of_its_own_within_the_folder(tmp_path: Path) -> None:
    texts = [*NASTY.values(), *ORDINARY, "cat/", "cat_", "猫" * 200, "cat" * 2001]
    names = [for_file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        (tmp_path / name).write_text("")
        assert hidden(name) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert len(for_file_name("cat" * 99, longest=40)) == 40


def test_a_plot_draws_the_names_as_they_are() -> None:
    names = [name for name in NASTY.values() if name]
    figure = Figure()
    axes = figure.subplots()
    for name in names:
        axes.plot([0, 1], label=for_plot(name))
        text, is_formula = axes.title._preprocess_math(for_plot(name))  # as every text of matplotlib is read
        shown = visible(name)
        assert not is_formula
        assert text.lstrip(" ") == (shown if len(shown) <= 60 else f"{shown[:59]}…")
    legend = axes.legend().get_texts()
    assert [entry.get_text() for entry in legend] == [for_plot(name) for name in names]
    legend[-1].set_text("")  # no font for it, which is a warning
    figure.draw_without_rendering()


@nasty
def test_markdown_shows_the_name_as_it_is(name: str) -> None:
    table = f"| a | b |\n|---|---|\n| {for_markdown(name)} | 1 |\n\n{for_markdown(name)} end\n"
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(table)
    cells = [
        "".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"
    ]
    assert cells == ["a", "b", visible(name).strip(" "), "1", f"{visible(name)} end".strip(" ")]
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special"}


@nasty
def test_code_in_markdown_shows_the_name_as_it_is(name: str) -> None:
    (line,) = (
        t for t in MarkdownIt().parse(f"do {code_in_markdown(f'gkd {name}')} now") if t.type == "inline"
    )
    assert [child.content for child in line.children or ()] == ["do ", f"gkd {visible(name)}", " now"]


@nasty
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([for_csv(name), 1])
    ((cell, number),) = csv.reader(io.StringIO(out.getvalue()))
    assert number == "1"
    assert cell in (visible(name), f"'{visible(name)}")
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert [for_csv(value) for value in (-1.5, None, "-1.5", "1e-3")] == [-1.5, None, "-1.5", "1e-3"]


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """The name and line of every call of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_nothing_is_printed_past_these_functions() -> None:
    printed = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("gkd", "tasks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, line in calls(path)
        if name == "print" or name.endswith((".print", "stdout.write", "stderr.write"))
    ]
    assert [each.partition(":")[0] for each in printed] == ["gkd/core/text.py"] * 2, (
        "use gkd.core.text.say or complain"
    )
