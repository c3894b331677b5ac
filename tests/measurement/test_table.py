"""Tables as spreadsheets save them: the same numbers, or one error with column and row."""

import numpy as np
import pandas as pd
import pytest

from cristae.errors import InputError
from cristae.measurement.table import read_table, write_table

TABLE = {
    "instance": np.array([1, 2, 2**63 + 5], np.uint64),
    "volume_voxels": np.array([10, -3, 7], np.int64),
    "score": np.array([0.5, 0.25, 1e-7]),
    "centroid_z_nm": np.array([1.5, -2.25, 3.0]),
    "association": np.array(["one_to_one", "missing", "a, b"], dtype=object),
    "cut_by_border": np.array([True, False, True]),
}


def same(found):
    assert list(found) == list(TABLE)
    for name, column in TABLE.items():
        assert found[name].dtype == column.dtype
        assert found[name].tolist() == column.tolist()


def plain(path):
    write_table(path, TABLE)
    return path.read_text()


def test_a_table_comes_back_as_it_was(tmp_path):
    plain(tmp_path / "t.csv")
    same(read_table(tmp_path / "t.csv"))


def german(text):
    """Semicolons and decimal commas, upper-case truth, an id as a float, empty cells at the end."""
    frame = pd.DataFrame(TABLE)
    frame["cut_by_border"] = frame["cut_by_border"].map({True: "TRUE", False: "FALSE"})
    rows = frame.to_csv(index=False, sep=";", decimal=",", lineterminator="\r\n").splitlines()
    rows[1] = rows[1].replace("1;10;", "1,0;10,0;", 1)
    return "".join(f"{row};;\r\n" for row in rows) + ";;;;;;;\r\n\r\n"


def quoted(names, rows):
    quote = '"'
    return quote + names.replace(",", f"{quote},{quote}") + quote + "\n" + rows


CHANGES = {
    "byte-order mark": lambda text: "\ufeff" + text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "quoted": lambda text: quoted(*text.split("\n", 1)),
    "spaces": lambda text: text.replace("instance,", " instance , "),
    "empty columns": lambda text: text.replace("\n", ",,\n"),
    "empty rows": lambda text: "\n" + text.replace("\n", "\n\n") + ",,,,,\n",
    "ids as floats": lambda text: text.replace("\n1,10,", "\n1.0,10.0,").replace("\n2,", "\n2.00,"),
    "semicolons and decimal commas": german,
    "separator named": lambda text: "sep=;\n" + german(text),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_spreadsheet_makes_of_it_is_the_same(tmp_path, name):
    text = CHANGES[name](plain(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_bytes(text.encode())
    same(read_table(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_bytes(text.lstrip("\ufeff").encode("utf-16"))
    same(read_table(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("instance,voxels\n1,2\n3,x\n", "column voxels, row 3: 'x' found, expected a whole number"),
        ("instance,voxels\n1,2\n\n3,\n", "column voxels, row 4: '' found"),
        ("instance,voxels\n1.5,2\n", "column instance, row 2: '1.5' found"),
        ("instance,voxels\n-1,2\n", r"column instance, row 2: '-1' found, expected .* at least 0"),
        ("instance,voxels\n1e300,2\n", "column instance, row 2: '1e300'"),
        ("instance,voxels\n99999999999999999999,2\n", "row 2: '99999999999999999999'"),
        ("instance,iou\n1,nan\n", "column iou, row 2: 'nan' found, expected a number"),
        ("instance,iou\n1,\n", "column iou, row 2: '' found"),
        ('instance,iou\n1,"0,5"\n', "column iou, row 2: '0,5' found"),
        ("instance;iou\n1;1.234,5\n", r"column iou, row 2: '1.234,5' found"),
        ("instance,cut_by_border\n1,maybe\n", "row 2: 'maybe' found, expected true or false"),
        ("instance,voxels\n1\n", "row 2: 1 cells, expected 2"),
        ("instance,voxels\n1,2,3\n", "row 2: 3 cells, expected 2"),
        ("instance,instance\n1,2\n", "two columns named instance"),
        ("instance,,voxels\n1,2,3\n", "column 2 has no name"),
        ("instance,voxels\n1,\0\n", "bytes of 0"),
        ("instance,voxels\n" + "1" * 200_000 + ",2\n", "row 2"),
    ],
)
def test_one_error_names_file_column_and_row(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_table(tmp_path / "t.csv")
    assert "t.csv" in str(caught.value)


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes("instance,größe\n1,2\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"t.csv: byte 11 is no UTF-8"):
        read_table(tmp_path / "t.csv")


def test_a_table_without_rows_has_columns(tmp_path):
    write_table(tmp_path / "t.csv", {name: column[:0] for name, column in TABLE.items()})
    found = read_table(tmp_path / "t.csv")
    assert {name: (len(column), column.dtype) for name, column in found.items()} == {
        name: (0, column.dtype) for name, column in TABLE.items()
    }
