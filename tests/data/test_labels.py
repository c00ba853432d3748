from __future__ import annotations

import pyarrow as pa
import pytest
from pyarrow import parquet

from unlabel.data.items import FileReader, Item
from unlabel.data.labels import Labels, apply_labels
from unlabel.errors import DataError, InputMissing, UsageError


def items(*rows):
    return [Item(name, FileReader(name), label) for name, label in rows]


def labelled(*rows, how="auto"):
    found, classes = apply_labels(items(*rows), Labels.parse(str(how)))
    return [item.label for item in found], classes


def test_folders_count_where_every_image_stands_in_one():
    rows = [("b/1", "b"), ("a/2", "a"), ("b/3", "b"), ("a/4", "a")]
    assert labelled(*rows) == (["b", "a", "b", "a"], ("a", "b"))


def test_labels_that_hardly_repeat_are_no_classes():
    captions = [(f"{i}", f"photo {i}") for i in range(4)]
    assert labelled(*captions) == ([None] * 4, ())
    assert len(labelled(*captions, how="folders")[1]) == 4


def test_folders_do_not_count_where_some_image_stands_in_none():
    assert labelled(("b/1", "b"), ("2", None)) == ([None, None], ())
    assert labelled(("b/1", "b"), ("b/2", "b")) == ([None, None], ())


def test_folders_count_when_asked_for():
    assert labelled(("b/1", "b"), ("2", None), how="folders") == (["b", None], ("b",))
    assert labelled(("b/1", "b"), ("a/2", "a"), how="none") == ([None, None], ())


def test_numbers_are_ordered_by_value():
    rows = [("a", "10"), ("b", "9"), ("c", "2")]
    assert labelled(*rows, how="folders")[1] == ("2", "9", "10")


def test_a_table_is_joined_by_path_name_or_stem(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,kind,other\na/1.png,cat,x\n2.png,dog,y\n3,007,z\n")
    found, classes = labelled(
        ("a/1.png", None), ("b/2.png", "b"), ("3.png", None), ("4.png", "q"), how=f"{table}:kind"
    )
    assert found == ["cat", "dog", "007", None]
    assert set(classes) == {"cat", "dog", "007"}


def test_a_table_gives_splits(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,label,split\n1.png,cat,val\n2.png,dog,train\n")
    found, _ = apply_labels(items(("1.png", None), ("2.png", None)), Labels.parse(f"{table}:label"))
    assert [item.split for item in found] == ["validation", "train"]


def test_a_parquet_table_with_numbers_and_gaps(tmp_path):
    path = tmp_path / "labels.parquet"
    parquet.write_table(pa.table({"path": ["1.png", "2.png"], "y": [4, None]}), path)
    assert labelled(("1.png", None), ("2.png", None), how=f"{path}:y") == (["4", None], ("4",))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("path,label\nelsewhere.png,cat\n", "No image is named"),
        ("path,kind\n1.png,cat\n", "no column 'label'"),
        ("path,label\n1.png\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_tables_that_do_not_fit_are_explained(tmp_path, content, match):
    table = tmp_path / "labels.csv"
    table.write_text(content)
    with pytest.raises(DataError, match=match):
        labelled(("1.png", None), how=table)


def test_what_is_no_label_option_is_explained(tmp_path):
    with pytest.raises(UsageError, match=r"FILE\.csv:COLUMN"):
        Labels.parse("something")
    with pytest.raises(InputMissing, match=r"none\.csv"):
        Labels.parse(str(tmp_path / "none.csv:label"))
