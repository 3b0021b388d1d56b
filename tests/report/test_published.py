"""Published numbers: how they are read, which rows they fit, what is within noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.report.published import Published, against, columns_of, number_of, read_published, verdict
from tests.refusals import refused

HEAD = "config,pair,method,accuracy,std,source\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "published.csv"
    path.write_text(text)
    return path


def test_numbers_of_one_config_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path, HEAD + "table,wide,kd,74.92,0.28,a\ntable,,student,73.3,,b\nother,wide,kd,1,,c\n"
    )
    assert read_published(path, "paper/standard/table") == [
        Published("kd", {"pair": "wide"}, 74.92, 0.28, "a"),
        Published("student", {}, 73.3, None, "b"),
    ]
    episodes = "config,setting,method,accuracy,interval,source\ntable,5-way 1-shot,kd,50,0.7,a\n"
    assert read_published(written(tmp_path, episodes), "table") == [
        Published("kd", {"setting": "5-way 1-shot"}, 50.0, None, "a", 0.7),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "csv-unreadable"),
        ("config,method,accuracy,std\n", "published-without-columns"),
        (HEAD + "table,wide,kd,74.9x,,a\n", "published-number"),
        (HEAD + "table,wide,kd,,,a\n", "published-number"),
        (HEAD + "table,wide,kd,74.9,x,a\n", "published-number"),
        (HEAD + "table,wide,kd,74.9,,\n", "published-without-source"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "published.csv" if text is None else written(tmp_path, text)
    with refused(code):
        read_published(path, "table")


def test_a_number_fits_the_axes_that_it_names() -> None:
    numbers = [
        Published("kd", {"pair": "wide", "task.shift": "25"}, 1.0, None, "a"),
        Published("sp", {}, 2.0, None, "b"),
    ]
    assert number_of(numbers, "kd", {"pair": "wide", "task.shift": 25}) is numbers[0]
    assert number_of(numbers, "kd", {"pair": "wide", "task.shift": 50}) is None
    assert number_of(numbers, "kd", {"pair": "small", "task.shift": 25}) is None
    assert number_of(numbers, "sp", {"pair": "small"}) is numbers[1]


@pytest.mark.parametrize(
    ("std", "mean", "interval", "within"),
    [
        (0.3, 74.61, None, True),  # two published standard deviations
        (0.3, 74.59, None, False),
        (0.3, 70.0, (60.0, 80.0), False),  # ours does not count where theirs is known
        (None, 74.7, None, True),  # half a point
        (None, 74.69, None, False),
        (None, 74.0, (73.3, 74.7), True),  # the end of our interval and half a point
        (None, 74.0, (73.4, 74.6), False),
    ],
)
def test_noise_is_the_published_spread_or_our_own(
    std: float | None, mean: float, interval: tuple[float, float] | None, within: bool
) -> None:
    judged = against(Published("kd", {}, 75.2, std, "a"), mean, interval)
    assert judged.within == within
    assert judged.difference == pytest.approx(mean - 75.2)


def test_intervals_over_episodes_are_added() -> None:
    number = Published("kd", {}, 75.0, None, "a", 0.6)
    assert against(number, 74.0, (73.6, 74.4)).within
    assert not against(number, 74.0, (73.7, 74.3)).within
    assert against(number, 74.0, None).content() == {
        "published": 75.0,
        "published_interval": 0.6,
        "source": "a",
        "to_published": -1.0,
        "within_noise": False,
    }
    heads, cells = columns_of([against(number, 74.0, None)], "last")
    assert (heads, cells) == (["published last", "Δ to published"], [["75.00 ± 0.60", "-1.00 *"]])


def test_the_columns_and_the_verdict() -> None:
    rows = [
        against(Published("kd", {}, 75.0, 0.3, "one"), 75.2, None),
        None,
        against(Published("sp", {}, 75.0, None, "two"), 74.0, None),
    ]
    head, cells = columns_of(rows)
    assert head == ["published", "Δ to published"]
    assert cells == [["75.00 ± 0.30", "+0.20"], ["–", "–"], ["75.00", "-1.00 *"]]
    (line,) = verdict(rows)
    assert line.startswith("1 of 2 within noise of the published numbers: ")
    assert line.endswith("Published: one; two.")
    assert (columns_of([None]), verdict([None])) == (([], [[]]), [])
