from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from unlabel.data.decode import decode
from unlabel.data.sources import list_source, list_sources
from unlabel.errors import DataError, InputMissing, UsageError


def picture(value: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 100, 50)).save(buffer, kind)
    return buffer.getvalue()


def tree(root, names):
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(value))
    return root


def names(listing):
    return [item.name for item in listing.items]


def labels(listing):
    return [item.label for item in listing.items]


def test_a_folder_is_listed_in_order_with_its_classes(tmp_path):
    found = list_source(tree(tmp_path, ["b/2.png", "a/1.png", "a/x/3.png", "b/10.png"]))
    assert names(found) == ["a/1.png", "a/x/3.png", "b/10.png", "b/2.png"]
    assert labels(found) == ["a", "a", "b", "b"]
    assert {item.split for item in found.items} == {""}


def test_folders_of_splits_are_no_classes(tmp_path):
    found = list_source(tree(tmp_path, ["train/a/1.png", "val/b/2.png", "Test/a/3.png"]))
    assert {(i.split, i.label) for i in found.items} == {
        ("train", "a"),
        ("validation", "b"),
        ("test", "a"),
    }


def test_loose_files_have_no_class(tmp_path):
    found = list_source(tree(tmp_path, ["1.png", "a/2.png"]))
    assert labels(found) == [None, "a"]


def test_classes_are_left_out_where_they_are_not_wanted(tmp_path):
    found = list_source(tree(tmp_path, ["a/1.png", "b/2.png"]), folder_labels=False)
    assert labels(found) == [None, None]


def test_hidden_files_are_passed_over_and_others_are_named(tmp_path):
    tree(tmp_path, ["1.png", ".hidden.png", ".git/2.png"])
    (tmp_path / "notes.md").write_text("no image")
    found = list_source(tmp_path)
    assert names(found) == ["1.png"]
    assert [name for name, _ in found.refused] == ["notes.md"]
    assert found.refused[0][1].startswith("not an image")


def test_a_loop_of_links_is_walked_once(tmp_path):
    tree(tmp_path, ["a/1.png", "b/2.png"])
    for folder in ("a", "b"):
        (tmp_path / folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = list_source(tmp_path)
    assert sorted(names(found)) == ["a/1.png", "b/2.png"]
    assert {"a/up", "b/up", "a/other", "self"} <= {name for name, _ in found.refused}


def test_links_out_of_the_folder_are_refused_by_name(tmp_path):
    outside = tree(tmp_path / "outside", ["secret.png"])
    inside = tree(tmp_path / "inside", ["1.png"])
    (inside / "file.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside, target_is_directory=True)
    (inside / "nowhere.png").symlink_to(inside / "missing.png")
    found = list_source(inside)
    assert names(found) == ["1.png"]
    reasons = dict(found.refused)
    assert set(reasons) == {"file.png", "folder", "nowhere.png"}
    assert "out of the folder" in reasons["file.png"]


def test_pipes_are_refused_and_never_waited_for(tmp_path):
    tree(tmp_path, ["1.png"])
    os.mkfifo(tmp_path / "pipe.png")
    found = list_source(tmp_path)
    assert names(found) == ["1.png"]
    assert [name for name, _ in found.refused] == ["pipe.png"]


@pytest.mark.parametrize(
    "name", [b"caf\xff.png", b"<script>alert(1)<.png", b"a\nb.png", b"x" * 251 + b".png"]
)
def test_strange_names_survive(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(picture())
    (item,) = list_source(tmp_path).items
    assert item.name.encode("utf-8")
    assert decode(item.reader.read()).pixels.shape == (8, 8, 3)


def test_files_can_be_named_one_by_one(tmp_path):
    tree(tmp_path, ["a/1.png", "b/1.png", "c/1.png"])
    found = list_sources([tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "c"])
    assert [name.split("/")[-2] for name in names(found)] == ["a", "b", "c"]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputMissing, match="nowhere"):
        list_source(tmp_path / "nowhere")


def test_packed_archives_say_to_be_unpacked(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match="Unpack"):
        list_source(tmp_path / "photos.zip")


# Shards


def shard(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_a_shard_gives_images_and_their_labels(tmp_path):
    members = [
        ("00.png", picture(1)),
        ("00.cls", b"3\n"),
        ("00.json", b"{}"),
        ("dir/01.seg.png", picture(2)),
        ("dir/01.txt", b"a cat"),
        ("02.png", picture(3)),
        ("02.txt", b"a sentence"),
        ("02.json", b'{"width": 8, "label": 7}'),
        ("03.png", picture(4)),
        ("03.json", b'{"label": null, "class": "dog"}'),
        ("04.png", picture(5)),
        ("04.json", b'{"caption": "no class", "label": [1, 2]}'),
    ]
    found = list_source(shard(tmp_path / "a.tar", members))
    assert names(found) == ["00.png", "dir/01.seg.png", "02.png", "03.png", "04.png"]
    assert labels(found) == ["3", "a cat", "7", "dog", None]
    assert found.refused == []
    read = [item.reader.read() for item in found.items]
    assert read == [picture(number) for number in range(1, 6)]


def test_json_that_is_none_is_named_and_costs_only_the_label(tmp_path):
    broken = [b"{", b"[" * 50_000, b"\xff\xfe", b"9" * 5000]
    members = [(f"{i}.json", data) for i, data in enumerate(broken)]
    members += [(f"{i}.png", picture(i)) for i in range(len(broken))]
    members += [("9.png", picture(9)), ("9.json", b'{"label": "\\ud800"}')]
    found = list_source(shard(tmp_path / "a.tar", members))
    assert labels(found) == [None] * 4 + ["\\ud800"]
    assert [name for name, _ in found.refused] == [f"{i}.json" for i in range(4)]
    assert found.refused[0][1] == "no JSON, so its image has no label"


def test_shards_in_a_folder_are_listed(tmp_path):
    for number in range(2):
        shard(tmp_path / f"{number}.tar", [("x.png", picture(number))])
    assert names(list_source(tmp_path)) == ["0.tar/x.png", "1.tar/x.png"]


@pytest.mark.parametrize("name", ["../../escape.png", "/etc/escape.png", "..\\up.png", "C:x.png"])
def test_members_that_would_escape_are_only_read(tmp_path, name):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    path = shard(folder / "a.tar", [(name, picture(7))])
    before = sorted(tmp_path.rglob("*"))
    for item in list_source(path).items:
        assert item.reader.read() == picture(7)
    assert sorted(tmp_path.rglob("*")) == before


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        special("x.png", tarfile.SYMTYPE, "/etc/passwd"),
        special("x.png", tarfile.LNKTYPE, "/etc/passwd"),
        special("x.png", tarfile.CHRTYPE),
        special("x.png", tarfile.FIFOTYPE),
        special("x.png", tarfile.BLKTYPE),
    ],
    ids=["symlink", "hardlink", "device", "pipe", "block"],
)
def test_members_that_are_no_plain_files_are_refused(tmp_path, member):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(member)
    found = list_source(tmp_path / "a.tar")
    assert found.items == []
    assert [name for name, _ in found.refused] == ["x.png"]


def test_a_shard_that_ends_early_keeps_what_is_whole(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{i}.png", picture(i)) for i in range(9)])
    data = path.read_bytes()
    for cut in range(100, len(data), 700):
        path.write_bytes(data[:cut])
        for item in list_source(path).items:
            try:
                assert item.reader.read() in [picture(i) for i in range(9)]
            except Exception as error:
                assert type(error).__name__ == "Refused"  # noqa: PT017


def test_shards_of_changed_bytes_never_crash(tmp_path):
    data = shard(tmp_path / "a.tar", [("0.png", picture()), ("0.cls", b"1")]).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "b.tar"
    for _ in range(200):
        changed = bytearray(data)
        for place in rng.integers(0, 600, 3):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        list_source(path)


def test_lying_sizes_read_no_further_than_the_file(tmp_path):
    info = tarfile.TarInfo("x.png")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf() + b"\0" * 1024)
    for item in list_source(tmp_path / "a.tar").items:
        with pytest.raises(Exception, match=r"truncated|too large"):
            item.reader.read()


# Arrays


def test_a_stack_of_images(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (5, 20, 30, 3), np.uint8)
    np.save(tmp_path / "x.npy", stack)
    found = list_source(tmp_path / "x.npy")
    assert len(found.items) == 5
    np.testing.assert_array_equal(found.items[3].reader.read(), stack[3])


def test_a_stack_of_grey_images_and_one_image(tmp_path):
    np.save(tmp_path / "grey.npy", np.zeros((50, 28, 28), np.uint8))
    np.save(tmp_path / "one.npy", np.zeros((28, 28, 3), np.uint8))
    assert len(list_source(tmp_path / "grey.npy").items) == 50
    assert len(list_source(tmp_path / "one.npy").items) == 1


def test_images_with_labels(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=[2, 0, 1])
    assert labels(list_source(tmp_path / "x.npz")) == ["2", "0", "1"]


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=[2, 0])
    with pytest.raises(DataError, match="3 images and 2 labels"):
        list_source(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError):
        list_source(tmp_path / "y.npz")


# Sets by name


def test_a_saved_hugging_face_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [{"bytes": picture(i), "path": None} for i in range(4)]
    part = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "set"))
    found = list_source(tmp_path / "set")
    assert [item.split for item in found.items] == ["train"] * 4 + ["test"] * 4
    assert labels(found)[:4] == ["cat", "dog", "dog", "cat"]
    assert found.items[2].reader.read() == picture(2)


def test_a_torchvision_set_without_the_network():
    found = list_source("torchvision:FakeData")
    assert found.items
    assert np.asarray(found.items[0].reader.read()).shape == (32, 32, 3)


def test_an_unknown_torchvision_set_is_said():
    with pytest.raises(InputMissing, match="NoSuchSet"):
        list_source("torchvision:NoSuchSet")
