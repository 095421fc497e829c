"""Records of CSV texts with their lines."""

from __future__ import annotations

import pytest

from matchgraph.csv_text import NotCsv, csv_records


def test_records_have_the_line_where_they_begin() -> None:
    text = 'a,b\n\n,\n"two\nlines",1\r\n x ,2\n'
    assert list(csv_records(text)) == [(1, ["a", "b"]), (4, ["two\nlines", "1"]), (6, [" x ", "2"])]
    assert list(csv_records('say "hi"\t"1\n', delimiter="\t", quoted=False)) == [(1, ['say "hi"', '"1'])]


def test_a_cell_may_be_an_embedding() -> None:
    cell = "[" + ",".join(["0.123456789012"] * 12_000) + "]"
    assert list(csv_records(f'embedding\n"{cell}"\n'))[1] == (2, [cell])


def test_broken_quotes_are_named_by_the_line_of_their_record() -> None:
    records = csv_records('a,b\n1,2\n3,"4\n5,6\n')
    assert [next(records), next(records)] == [(1, ["a", "b"]), (2, ["1", "2"])]
    with pytest.raises(NotCsv, match="is not CSV") as caught:
        next(records)
    assert caught.value.line == 3
