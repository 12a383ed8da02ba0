"""Tables in plain text."""

from __future__ import annotations

import pytest

from framework.console.tables import text_table

ROWS = [("", "ms", "note"), ("[one]", "1.25", "tuple[int, ...]"), ("two :smile:", "12", "")]


def test_columns_are_aligned_and_nothing_is_read_as_markup():
    assert text_table(ROWS, right=[1]).split("\n") == [
        "               ms  note",
        "[one]        1.25  tuple[int, ...]",
        "two :smile:    12",
    ]


@pytest.mark.parametrize("width", [30, 60])
def test_the_last_column_is_wrapped_to_the_width(width):
    words = "a line of words that is longer than there is room for"
    lines = text_table([("name", words), ("other", "short")], width=width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()) == f"name {words} other short"


def test_words_stay_whole_on_a_narrow_terminal():
    lines = text_table([("a long name", "words of a sentence")], width=12).split("\n")
    assert lines == ["a long name  words of a sentence"]


def test_a_long_table_that_is_not_wrapped_has_a_line_for_each_row():
    assert text_table([("x" * 300, "y" * 300)] * 2).count("\n") == 1
