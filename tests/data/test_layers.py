from __future__ import annotations

import json
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from unlabel.data import layering
from unlabel.data.ingest import ingest
from unlabel.data.layering import write_layer
from unlabel.data.spec import BackgroundRemoval, Crops, ViewSpec
from unlabel.data.store import Store
from unlabel.data.views import Batches, used_layers
from unlabel.errors import ConfigError, DataError, OutputExists

IMAGES = 80


def expected(row: int, name: str) -> np.ndarray | None:
    """No mask for every seventh image; else one that no other image has."""
    if row % 7 == 0:
        return None
    mask = np.zeros((9, 11), np.uint8)
    mask[row % 9, : 1 + row // 9] = 255 if name == "foreground" else 3
    return mask


def foreground(store: Store) -> Iterator[np.ndarray | None]:
    return (expected(int(row), "foreground") for row in store.ids)


def segments(store: Store) -> Iterator[np.ndarray | None]:
    return (expected(int(row), "segments") for row in store.ids)


def nothing(store: Store) -> Iterator[None]:
    return (None for _ in store.ids)


@pytest.fixture
def store(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 24, 24, 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    ingest([tmp_path / "x.npy"], tmp_path / "store", progress=False, workers=1)
    return Store.open(tmp_path / "store")


def write(store: Store, make=foreground, name: str = "foreground", **options):
    settings = {"options": {}, "workers": 1, "progress": False} | options
    return write_layer(store, name, "test", make, **settings)


@pytest.mark.parametrize(
    ("name", "make", "workers"),
    [("foreground", foreground, 2), ("segments", segments, 1)],
)
def test_masks_come_back_by_row(store, name, make, workers):
    info = write(store, make, name, workers=workers)
    assert (info.images, info.empty) == (IMAGES, len(range(0, IMAGES, 7)))
    assert Store.open(store.path).layers == {name}
    layer = store.select(np.array([3, 5])).layer(name)
    layer = pickle.loads(pickle.dumps(layer))
    for row in range(IMAGES):
        found, wanted = layer.mask(row), expected(row, name)
        if wanted is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, wanted)
    files = {path.name for path in store.path.iterdir() if not path.name.startswith("part-")}
    assert files == {name, "manifest.json", "report.json", "store.json"}


def test_a_layer_is_replaced_only_when_asked(store):
    first = write(store)
    with pytest.raises(OutputExists, match="--overwrite"):
        write(store)
    again = write(store, overwrite=True)
    assert again.fingerprint == first.fingerprint
    other = write(store, segments, overwrite=True)
    assert other.fingerprint != first.fingerprint


def test_an_interrupted_layer_is_invisible_and_goes_on(store, monkeypatch):
    done = []

    def dies(part: Store) -> Iterator[np.ndarray | None]:
        if 40 in part.ids:
            raise KeyboardInterrupt
        done.append(part.ids[0])
        return foreground(part)

    with pytest.raises(KeyboardInterrupt):
        write(store, dies)
    assert not Store.open(store.path).layers
    with pytest.raises(ConfigError, match="unlabel saliency"):
        store.layer("foreground")

    def rest(part: Store) -> Iterator[np.ndarray | None]:
        assert part.ids[0] not in done
        return foreground(part)

    found = write(store, rest)
    assert found.fingerprint == write(store, overwrite=True).fingerprint


def test_killed_before_it_gets_its_name_it_is_only_named(store, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(layering, "publish", dies)
        with pytest.raises(KeyboardInterrupt):
            write(store)
    assert not Store.open(store.path).layers
    assert write(store, dies).empty == len(range(0, IMAGES, 7))


def test_other_options_start_anew(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(layering, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(store, segments)
    write(store, foreground, options={"side": 3})
    assert store.layer("foreground").mask(1).max() == 255


def test_no_mask_at_all_is_no_layer(store):
    with pytest.raises(DataError, match="no foreground in any"):
        write(store, nothing)
    assert not Store.open(store.path).layers
    write(store)


def test_a_damaged_or_foreign_layer_is_refused(store, tmp_path):
    write(store)
    folder = store.path / "foreground"
    text = (folder / "layer.json").read_text()
    values = json.loads(text)
    (folder / "layer.json").write_text(json.dumps({**values, "store": "other"}))
    with pytest.raises(DataError, match="other images"):
        store.layer("foreground")
    (folder / "layer.json").write_text("{}")
    with pytest.raises(DataError, match="not as it was written"):
        store.layer("foreground")
    (folder / "layer.json").write_text(text)
    part = folder / "part-00000.arrow"
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"--overwrite"):
        store.layer("foreground")


def test_a_store_with_layers_is_still_replaced_whole(store, tmp_path):
    write(store)
    (store.path / "segments.partial.lock").touch()
    ingest([tmp_path / "x.npy"], store.path, progress=False, workers=1, overwrite=True)
    assert not Store.open(store.path).layers
    (store.path / "notes.txt").touch()
    with pytest.raises(OutputExists, match="holds other files"):
        ingest([tmp_path / "x.npy"], store.path, progress=False, workers=1, overwrite=True)


def test_batches_are_cut_from_the_store_and_its_layers(store):
    write(store)
    write(store, segments, "segments")
    removal = BackgroundRemoval(1.0, "mean")
    spec = ViewSpec({"a": Crops(24, 1, (1.0, 1.0), (1, 1), 0.0, background=removal, segments=3)})
    held_out = store.select(np.array([7, 30, 5]))
    batch = Batches(held_out, spec, seed=0, batch_size=3, fixed=True)[0]
    mean = np.rint(np.array(store.info.mean) * 255)
    for i, row in enumerate([7, 30, 5]):
        image, mask = store.image(row), expected(row, "foreground")
        if mask is not None:
            place = (np.arange(24) + 0.5) / 24
            rows, columns = (place * 9).astype(int), (place * 11).astype(int)
            image = np.where(mask[rows[:, None], columns][..., None] > 0, image, mean)
        np.testing.assert_array_equal(batch.views["a"][i, 0].permute(1, 2, 0), image)
    assert batch.segments["a"].shape == (3, 1, 3, 3)
    assert used_layers(store, spec) == {
        name: store.layer(name).info.fingerprint for name in ("foreground", "segments")
    }
    plain = ViewSpec({"a": Crops(24, background=BackgroundRemoval(0.0))})
    assert used_layers(store, plain) == {}
