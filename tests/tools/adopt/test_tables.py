"""Tables as they lie in a folder: what cannot be read is said."""

from collections import defaultdict

from tools.adopt.tables import read_tables


def test_columns_that_differ_in_blanks_only(tmp_path):
    (tmp_path / "train.csv").write_text("id, id\n1,2\n")
    tables, doubts, _ = read_tables(tmp_path, ["train.csv"], defaultdict(list))
    assert tables == {}
    assert doubts == [f"not read: {tmp_path}/train.csv: two columns are named 'id'; rename one of them"]
