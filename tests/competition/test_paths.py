"""Path patterns lead to the files they name, and to none outside the root."""

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest

from src.competition.image_files import Paths, check_image_files
from src.competition.paths import NoImagesError, choose_patterns, find_images, list_images
from src.competition.tables import load_test_table, load_train_table
from src.config.settings import Competition
from src.containers import read_file
from src.errors import UserError
from tests.competition.building import BASIC, IMAGES, PIXEL, names_of, refusal, table_of
from tests.http_server import Server


@pytest.mark.parametrize(
    ("pattern", "files", "expected"),
    [
        ("{folder}/{id}.png", ["x/a1.png", "y/b2.png"], ["x/a1.png", "y/b2.png"]),
        ("train/{id[0]}/{id[1]}/{id}.png", ["train/a/1/a1.png", "train/b/2/b2.png"], None),
        ("train/{id}.*", ["train/a1.tif", "train/b2.jpg", "train/a1.txt", "train/b2.x.jpg", "train/.b2.jpg"],
         ["train/a1.tif", "train/b2.jpg"]),
        ("train/*_{id}.png", ["train/7_a1.png", "train/8_b2.png"], None),
        ("train/{id}/*/*.dcm",
         ["train/a1/T1/s2.dcm", "train/a1/T1/s10.dcm", "train/a1/T1/s1.dcm", "train/b2/T1/s1.dcm", "train/b2/T1/a.txt"],
         ["train/a1/T1/s2.dcm", "train/b2/T1/s1.dcm"]),
        ("train/{id}/*",
         ["train/a1/9.png", "train/a1/10.png", "train/a1/11.png", "train/a1/list.csv", "train/b2/1.JPG",
          "train/b2/._1.JPG", "train/b2/._2.JPG"],
         ["train/a1/10.png", "train/b2/1.JPG"]),
        ("{id}*.png", ["a1-x.png", "b2.png"], ["a1-x.png", "b2.png"]),
        ("*/{id}-*-v*.png", ["s/a1-k-v1.png", "t/b2-k-v2.png", "t/b2-k-w.png"], ["s/a1-k-v1.png", "t/b2-k-v2.png"]),
    ],
)  # fmt: skip
def test_patterns_lead_to_files(write_competition, pattern, files, expected):
    stubs = dict.fromkeys(files, PIXEL)
    csv = {"t.csv": "id,y,folder\na1,0,x\nb2,1,y\n"}
    competition = write_competition(stubs | csv, train_table="t.csv", train_image=pattern, targets=["y"])
    assert names_of(load_train_table(competition), competition) == (expected or files)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{id.__class__}.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("{id:>5}.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("{id!r}.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("{id.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("../{id}.png", "leads outside competition.root; write a path below it"),
        ("/../{id}.png", "leads outside competition.root; write a path below it"),
        ("~/../{id}.png", "leads outside competition.root; write a path below it"),
        ("train/*.png", "all rows would get one image; name a column, for example {id}"),
        ("{idd}.png", "no column 'idd' (found id, y); did you mean id?"),
    ],
)
def test_a_wrong_pattern_is_refused(write_competition, pattern, expected):
    settings = BASIC | {"train_image": pattern}
    competition = write_competition(IMAGES | {"train.csv": "id,y\n001,1\n002,0\n"}, **settings)
    assert refusal(competition) == f"competition.train_image={pattern}: {expected}"


@pytest.mark.parametrize("bad", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_an_id_never_leads_out_of_the_root(write_competition, bad):
    settings = BASIC | {"train_image": "{id}"}
    competition = write_competition({"ok.png": PIXEL, "train.csv": f"id,y\nok.png,1\n{bad},0\n"}, **settings)
    expected = f"ROOT: the image of id '{bad}' would be outside this folder ({bad}); "
    assert refusal(competition) == expected + "correct the id or competition.train_image, now {id}"


def test_a_star_in_an_id_is_a_letter(write_competition):
    competition = write_competition(IMAGES | {"train.csv": "id,y\n001,1\n*,0\n"}, **BASIC)
    assert "1 of 2 ids have no image (first: *)" in refusal(competition)


@pytest.mark.parametrize(
    ("pattern", "files", "ids", "labels", "positive"),
    [
        ("train/{label}/*",
         ["train/dog/10.png", "train/dog/9.png", "train/cat/1.jpg", "train/cat/x.txt", "train/z.png"],
         ["cat/1.jpg", "dog/9.png", "dog/10.png"], [0, 1, 1], "dog"),
        ("train/{label}.*.jpg", ["train/dog.2.jpg", "train/cat.0.jpg"], ["cat.0.jpg", "dog.2.jpg"], [0, 1], "dog"),
        ("{label}_*.*", ["pug_dog_1.png", "cat_2.jpg"], ["cat_2.jpg", "pug_dog_1.png"], [0, 1], "pug_dog"),
        ("all/*_{label}.png", ["all/1_pug_dog.png", "all/2_cat.png"],
         ["1_pug_dog.png", "2_cat.png"], [1, 0], "pug_dog"),
        ("{label}/{id}.png", ["dog/d.png", "cat/c.png"], ["c", "d"], [0, 1], "dog"),
    ],
)  # fmt: skip
def test_labels_are_read_from_paths(write_competition, pattern, files, ids, labels, positive):
    competition = write_competition(dict.fromkeys(files, PIXEL), train_image=pattern, label="label")
    table = load_train_table(competition)
    assert table.ids.tolist() == ids
    assert table.targets[:, 0].tolist() == labels
    assert table.target_names == (positive,)
    assert len(set(table.paths)) == len(ids)


def test_images_of_one_name_below_two_patterns_are_two_rows(write_competition):
    files = dict.fromkeys(("train/cat/1.png", "train/dog/2.png", "more/cat/1.png"), PIXEL)
    competition = write_competition(files, train_image=["train/{label}/*", "more/{label}/*"], label="label")
    table = load_train_table(competition)
    assert table.ids.tolist() == ["train/cat/1.png", "train/dog/2.png", "more/cat/1.png"]
    assert table.targets[:, 0].tolist() == [0, 1, 0]
    twice = replace(competition, train_image=["train/{label}/*", "train/{label}/1*"])
    assert refusal(twice) == (
        "competition.train_image=[train/{label}/*, train/{label}/1*]: 1 of 3 rows repeat an id (first: "
        "train/cat/1.png); keep one row per image"
    )


def test_groups_can_be_read_from_paths(write_competition):
    files = {"train/a/p1_1.png": PIXEL, "train/b/p2_1.png": PIXEL}
    competition = write_competition(files, train_image="train/{label}/{patient}_*.png", label="label", group="patient")
    assert load_train_table(competition).groups.tolist() == ["p1", "p2"]


def zip_of(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, PIXEL)
    return file.getvalue()


def test_files_that_may_hold_the_images_are_named_with_their_pattern(write_competition):
    files = {
        "train/001.png": PIXEL,
        "train/test.txt": b"",
        "train.tfrec": b"",
        "all.zip": zip_of("x.csv"),
        "a.txt": b"",
    }
    competition = write_competition(files | {"train.csv": "id,y\n001,1\n002,0\n"}, **BASIC)
    expected = "images may be inside train.tfrec: extract them as files, else check competition.train_image, now"
    assert f"1 of 2 ids have no image (first: 002); {expected}" in refusal(competition)
    root = Path(competition.root)
    (root / "train.tfrec").rename(root / "other")
    assert "(first: 002); check competition.train_image, now" in refusal(competition)
    (root / "all.zip").write_bytes(zip_of("train/a/002.jpg", "train/a/001.jpg", "b.csv"))
    found = "images may be inside all.zip: name them, as all.zip/train/a/{id}.jpg, else check"
    assert found in refusal(competition)
    expected = ["all.zip/train/a/001.jpg", "all.zip/train/a/002.jpg"]
    competition = replace(competition, train_image="all.zip/train/a/{id}.jpg")
    assert names_of(load_train_table(competition), competition) == expected


@pytest.mark.parametrize(
    ("pattern", "inside", "expected"),
    [
        ("x.zip/{id}.png", ["a1.png", "b2.png"], None),
        ("x.zip/{id[0]}/{id}.*", ["a/a1.tif", "a/a1.txt", "b/b2.JPG"], ["a/a1.tif", "b/b2.JPG"]),
        ("*.zip/*_{id}.png", ["7_a1.png", "8_b2.png"], None),
        ("x.zip/{id}/*/*.dcm", ["a1/T/2.dcm", "a1/T/10.dcm", "a1/T/1.dcm", "b2/T/1.dcm"], ["a1/T/2.dcm", "b2/T/1.dcm"]),
        (["{id}.jpg", "x.zip/{id}.png"], ["a1.png", "b2.png", "__MACOSX/a1.jpg"], ["a1.png", "b2.png"]),
        ("x.zip/{folder}/{id}", ["x/a1", "y/b2"], None),
    ],
)  # fmt: skip
def test_patterns_go_on_inside_a_container(write_competition, pattern, inside, expected):
    files = {"t.csv": "id,y,folder\na1,0,x\nb2,1,y\n", "x.zip": zip_of(*inside)}
    competition = write_competition(files, train_table="t.csv", train_image=pattern, targets=["y"])
    found = names_of(load_train_table(competition), competition)
    assert found == [f"x.zip/{one}" for one in expected or inside]


def test_a_star_alone_is_no_container_so_that_what_is_unpacked_is_found_once(write_competition):
    files = {"t.csv": "id,y\na1,0\nb2,1\n", "x.zip": zip_of("a1.png"), "x/a1.png": PIXEL, "x/b2.png": PIXEL}
    competition = write_competition(files, train_table="t.csv", train_image="*/{id}.png", targets=["y"])
    assert names_of(load_train_table(competition), competition) == ["x/a1.png", "x/b2.png"]


def test_class_folders_inside_a_container(write_competition):
    files = {"x.zip": zip_of("train/cat/1.jpg", "train/cat/._1.jpg", "train/dog/2.jpg", "train/dog/list.txt")}
    competition = write_competition(files, train_image="x.zip/train/{label}/*", label="label")
    with h5py.File(f"{competition.root}/y.h5", "w") as file:
        file["cat/1"], file["dog/2"] = np.void(b"jpeg"), np.void(b"jpeg")
    table = load_train_table(competition)
    assert names_of(table, competition) == ["x.zip/train/cat/1.jpg", "x.zip/train/dog/2.jpg"]
    assert table.ids.tolist() == ["cat/1.jpg", "dog/2.jpg"]
    table = load_train_table(replace(competition, train_image="y.h5/{label}/*"))
    assert names_of(table, competition) == ["y.h5/cat/1", "y.h5/dog/2"]
    check_image_files(table)
    with h5py.File(f"{competition.root}/z.h5", "w") as file:
        file["cat/1"], file["dog/2"] = np.void(b"jpeg"), np.zeros(0, np.uint8)
    with pytest.raises(UserError, match=r"z.h5/dog/2: cannot be decoded as an image \(0 bytes\); 1 of 2 are empty"):
        check_image_files(load_train_table(replace(competition, train_image="z.h5/{label}/*")))


@pytest.mark.parametrize("table", ["t.csv", None])
def test_no_image_at_all_is_an_error_of_its_own(write_competition, table):
    """So that who reads a hidden test set's placeholder can tell it from a set that is damaged."""
    files = {"test/a.jpg": PIXEL, "t.csv": "id\na\nb\n"}
    competition = write_competition(files, test_table=table, test_image="test/{id}.jpg")
    if table:
        with pytest.raises(UserError) as caught:
            load_test_table(competition, ("y",))
        assert not isinstance(caught.value, NoImagesError)
    (Path(competition.root) / "test/a.jpg").unlink()
    with pytest.raises(NoImagesError):
        load_test_table(competition, ("y",))


def test_of_several_patterns_the_one_that_has_the_image_counts(write_competition):
    files = dict.fromkeys(("jpg/a.jpg", "more/b.jpg", "jpg/c.jpg"), PIXEL) | {"t.csv": "id\nb\na\nc\n"}
    settings = {"test_table": "t.csv", "test_image": ["jpg/{id}.jpg", "more/{id}.jpg"]}
    competition = write_competition(files, **settings)
    assert names_of(load_test_table(competition, ("y",)), competition) == ["more/b.jpg", "jpg/a.jpg", "jpg/c.jpg"]
    listed = write_competition({}, test_image=["jpg/{id}.jpg", "more/{id}.jpg"])
    table = load_test_table(listed, ("y",))
    assert (table.ids.tolist(), names_of(table, listed)) == (["a", "c", "b"], ["jpg/a.jpg", "jpg/c.jpg", "more/b.jpg"])
    (Path(competition.root) / "jpg/c.jpg").unlink()
    assert refusal(competition, load_test_table, ("y",)) == (
        "ROOT/jpg, ROOT/more: 1 of 3 ids have no image (first: c); check competition.test_image, now jpg/{id}.jpg, "
        "more/{id}.jpg"
    )
    twice = write_competition({"jpg/b.jpg": PIXEL, "jpg/c.jpg": PIXEL}, **settings)
    assert refusal(twice, load_test_table, ("y",)) == (
        "competition.test_image: id 'b' has an image by two patterns (ROOT/jpg/b.jpg, ROOT/more/b.jpg); leave out one "
        "pattern, or move one of the images away"
    )


def test_absolute_paths_and_those_of_the_home_folder_are_taken_as_they_are(write_competition, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/far").mkdir(parents=True)
    for name in ("001", "002"):
        (tmp_path / f"home/far/{name}.png").write_bytes(PIXEL)
    (tmp_path / "home/train.csv").write_text("id,y\n001,1\n002,0\n")
    for top in ("~", str(tmp_path / "home")):
        settings = BASIC | {"train_table": f"{top}/train.csv", "train_image": f"{top}/far/{{id}}.png"}
        table = load_train_table(write_competition(IMAGES, **settings))
        assert table.paths.tolist() == [str(tmp_path / f"home/far/{name}.png") for name in ("001", "002")]
    settings |= {"train_table": None, "targets": [], "label": "label", "train_image": f"{top}/{{label}}/*.png"}
    (tmp_path / "home/near").mkdir()
    (tmp_path / "home/near/3.png").write_bytes(PIXEL)
    table = load_train_table(write_competition({}, **settings))
    assert table.ids.tolist() == ["far/001.png", "far/002.png", "near/3.png"]
    assert table.targets[:, 0].tolist() == [0, 0, 1]


SEVERAL = BASIC | {"images": "train/{id}/*.png"}


def write_slices(write_competition, counts, **settings):
    """A competition whose rows "1", "2" ... have so many slices, from 8.png on."""
    names = [f"train/{row}/{8 + place}.png" for row, count in enumerate(counts, 1) for place in range(count)]
    rows = "".join(f"{row},{row % 2}\n" for row in range(1, len(counts) + 1))
    return write_competition({"train.csv": "id,y\n" + rows} | dict.fromkeys(names, PIXEL), **SEVERAL | settings)


@pytest.mark.parametrize(
    ("count", "taken"),
    [(None, [8, 9, 10, 11]), (1, [10]), (2, [9, 11]), (3, [8, 10, 11]), (8, [8, 8, 9, 9, 10, 10, 11, 11])],
)
def test_all_images_of_a_row_in_natural_order_or_some_evenly_spaced(write_competition, count, taken):
    competition = write_slices(write_competition, [4, 4], num_images=count)
    paths = load_train_table(competition).paths
    found = [[int(Path(file).stem) for file in path.split("\0")] for path in paths]
    assert found == [taken] * 2


def test_rows_with_different_numbers_of_images_are_counted(write_competition):
    assert refusal(write_slices(write_competition, [4, 3, 4])) == (
        "competition.images=train/{id}/*.png: rows have different numbers of images, 4 (2 rows, as 1), 3 (1 rows, as "
        "2); set competition.num_images=4, so many of each are read"
    )
    assert len(load_train_table(write_slices(write_competition, [4, 3, 4], num_images=4))) == 3


def test_the_pattern_that_lacks_an_image_is_named(write_competition):
    files = {"train.csv": "id,y\na,0\nb,1\n", "train/a_red.png": PIXEL, "train/a_green.png": PIXEL}
    images = ["train/{id}_red.png", "train/{id}_green.png"]
    competition = write_competition(files | {"train/b_red.png": PIXEL}, **BASIC | {"images": images})
    assert refusal(competition) == (
        "ROOT/train: 1 of 2 ids lack an image (first: b, of train/{id}_green.png); check competition.images, now "
        "train/{id}_red.png, train/{id}_green.png"
    )


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("train/{id}-*.png", ["test/{id}-*.png"]),
        (["Train_images/{train_id}/training.png", "x/{id}.png"], ["Test_images/{train_id}/testing.png", "x/{id}.png"]),
    ],
)
def test_test_images_are_where_test_stands_for_train(images, expected):
    competition = Competition(images=images)
    assert choose_patterns(competition, "test_image") == ("images", expected)
    own = replace(competition, test_image="new/{id}/*")
    assert choose_patterns(own, "test_image") == ("test_image", ["new/{id}/*"])


def test_without_a_table_the_files_with_the_same_names_are_of_one_row(write_competition):
    names = [f"train/{label}/{row}-{one}.png" for label, row in (("cat", "a"), ("dog", "b")) for one in (1, 2)]
    settings = {"images": "train/{label}/{id}-*.png", "label": "label", "train_table": None, "targets": []}
    table = load_train_table(write_competition(dict.fromkeys(names, PIXEL), **settings))
    assert table.ids.tolist() == ["a", "b"]
    assert [len(path.split("\0")) for path in table.paths] == [2, 2]
    competition = write_competition(dict.fromkeys(names, PIXEL), **settings | {"images": "train/{label}/*.png"})
    assert refusal(competition) == (
        "competition.images=train/{label}/*.png: no table says which images are of one row; write {id}, and the same "
        "names, in each pattern"
    )


@pytest.mark.parametrize(("pattern", "found"), [
    ("{id}*.png", "10_1.png is of two rows, 1*.png and 10*.png"),
    ("*{id}.png", "7_21.png is of two rows, *1.png and *21.png"),
    ("{id}_*.png", None),
    ("*_{id}.png", None),
])  # fmt: skip
def test_an_image_is_not_of_two_rows(write_competition, pattern, found):
    files = [f"{one}_1.png" for one in (1, 10, 21)] + [f"7_{one}.png" for one in (1, 10, 21)]
    stubs = dict.fromkeys(files, PIXEL) | {"t.csv": "id,y\n1,0\n10,1\n21,1\n"}
    competition = write_competition(stubs, train_table="t.csv", train_image=pattern, targets=["y"])
    if found is None:
        load_train_table(competition)
        return
    line = f"competition.train_image={pattern}: {found}; write what stands between the column and *"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        load_train_table(competition)


def find(rows, **settings):
    return list(find_images(Competition(**settings), "train_image", rows, rows["id"].to_numpy(dtype=str)))


def test_patterns_may_be_urls_and_listed_folders_take_stars_and_several_patterns():
    files = ["here/a/1.jpg", "here/b/2.jpg", "there/1_x.png", "there/2_y.png"]
    fsspec.filesystem("memory").pipe({f"/{name}": b"x" for name in files})
    rows = pd.DataFrame({"id": ["1", "2"]})
    found = find(rows, root="memory://here", train_image=["a/{id}.*", "b/{id}.jpg"])
    assert found == ["memory://here/a/1.jpg", "memory://here/b/2.jpg"]
    found = find(rows, root="data", train_image="memory://there/{id}_*")
    assert found == ["memory://there/1_x.png", "memory://there/2_y.png"]
    with pytest.raises(UserError, match=r"^memory://there: 1 of 2 ids have no image \(first: 2\); check competition"):
        find(rows, root="data", train_image="memory://there/{id}_x.png")
    competition = Competition(root="memory://", train_image="there/{label}_*")
    assert list_images(competition, "train_image")[0]["label"].tolist() == ["1", "2"]


def test_of_files_that_differ_in_the_suffix_alone_none_is_chosen(write_competition):
    files = IMAGES | {"train/001.jpg": PIXEL, "train.csv": "id,y\n001,1\n002,0\n"}
    assert refusal(write_competition(files, **BASIC | {"train_image": "train/{id}.*"})) == (
        "competition.train_image=train/{id}.*: id '001' has several images (train/001.jpg, train/001.png); write the "
        "suffix of one in place of .*"
    )
    assert len(load_train_table(write_competition({}, **BASIC))) == 2


def test_over_http_three_images_are_looked_at_and_the_id_is_in_the_line():
    rows = pd.DataFrame({"id": [f"no {number}" for number in range(9)], "file": list("abcdefghi")})
    with Server({f"in/{name}.jpg": b"x" for name in "abcdefghi"}) as server:
        how = {"root": server.url, "train_image": "in/{file}.jpg"}
        assert find(rows, **how) == [f"{server.url}/in/{name}.jpg" for name in "abcdefghi"]
        assert server.asked == {f"in/{name}.jpg": 1 for name in "aei"}
        del server.files["in/e.jpg"]
        paths = find(rows, **how)  # unreadable=skip leaves it out
        with pytest.raises(UserError, match=rf"^id no 4: {server.url}/in/e.jpg: cannot be read \(no such file\)"):
            check_image_files(replace(table_of([0] * 9), ids=rows["id"].to_numpy(), paths=Paths.of(paths)))
        with pytest.raises(UserError, match=rf"^id no 0: {server.url}/none/a.jpg: cannot be read \(no such file\)"):
            find(rows, root=server.url, train_image="none/{file}.jpg")
        lists_none = r"http lists no files; set a table of the ids, and patterns without \*$"
        with pytest.raises(UserError, match=f"^{server.url}/in: {lists_none}"):
            find(rows, root=server.url, train_image="in/{file}*.jpg")
        with pytest.raises(UserError, match=f"^{server.url}: {lists_none}"):
            list_images(Competition(root=server.url, train_image="{label}/*"), "train_image")
        wrong = r"^competition.train_image=\[a/\{id\}, b/\{id\}\]: http lists no files, so that of several"
        with pytest.raises(UserError, match=wrong):
            find(rows, root=server.url, train_image=["a/{id}", "b/{id}"])


@pytest.mark.parametrize(
    "cell", ["../x", "a/../../x", "/x", "http://evil/x", "//evil/x", "..\\x", "zip::http://evil/x"]
)
@pytest.mark.parametrize("root", ["http://127.0.0.1:1/in", "memory://here", "data"])
def test_no_cell_leads_elsewhere_or_out_of_the_folder(cell, root):
    rows = pd.DataFrame({"id": [cell]})
    for pattern in ("{id}", "{id}/x.jpg", f"{root}/{{id}}") if "://" in root else ("{id}", "{id}/x.jpg"):
        with pytest.raises(UserError, match="would be outside this folder"):
            find(rows, root=root, train_image=pattern)


def test_over_http_what_a_cell_holds_stays_a_name():
    rows = pd.DataFrame({"id": ["a?b", "a#b", "%2e%2e", "a b", "ä", "a&b=c", "100%", ";x", "a:b@c"]})
    with Server({f"in/{cell}.jpg": cell.encode() for cell in rows["id"]}) as server:
        found = find(rows, root=server.url, train_image="in/{id}.jpg")
        assert [read_file(path).decode() for path in found] == rows["id"].tolist()
