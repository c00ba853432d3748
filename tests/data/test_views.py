from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_store import fake_store

from unlabel.data.augment import apply_colours
from unlabel.data.cutting import View
from unlabel.data.spec import Batch, Crops, MaskSpec, Photometric, ViewSpec
from unlabel.data.views import Batches, finish
from unlabel.errors import ConfigError

COLOURS = Photometric(0.8, 0.4, 0.4, 0.2, 0.1, grey_p=0.2, blur_p=0.5, solarize_p=0.2)
SPEC = ViewSpec(
    crops={
        "large": Crops(16, 2, photometric=COLOURS),
        "small": Crops(8, 3, scale=(0.05, 0.2), interpolation="bilinear"),
    },
    masks={"large": MaskSpec("block", (4, 4), (8, 8), min_block=2)},
)
PLAIN = ViewSpec({"image": Crops(16, 2)}, {"image": MaskSpec("random", (4, 4), (4,))})


def batches(store=None, spec=SPEC, **changed) -> Batches:
    settings = {"seed": 0, "batch_size": 12} | changed
    return Batches(store or fake_store(), spec, **settings)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    groups = {"views": batch.views, "masks": batch.masks, "colours": batch.colours}
    named = {f"{kind}/{name}": t for kind, group in groups.items() for name, t in group.items()}
    return named | {"ids": batch.ids, "labels": batch.labels}


def assert_same(one: Batch, two: Batch) -> None:
    ours, theirs = tensors(one), tensors(two)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def joined(parts: list[Batch]) -> Batch:
    def cat(group: str) -> dict:
        names = getattr(parts[0], group)
        return {name: torch.cat([getattr(part, group)[name] for part in parts]) for name in names}

    return Batch(
        cat("views"),
        cat("masks"),
        torch.cat([part.ids for part in parts]),
        torch.cat([part.labels for part in parts]),
        cat("colours"),
    )


def test_a_batch_is_what_the_spec_asks_for():
    batch = batches()[0]
    assert batch.views["large"].shape == (12, 2, 3, 16, 16)
    assert batch.views["small"].shape == (12, 3, 3, 8, 8)
    assert batch.views["large"].dtype == torch.uint8
    assert batch.masks["large"].shape == (12, 2, 16)
    assert (batch.masks["large"].sum(2) == 8).all()
    assert batch.colours.keys() == {"large"}
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    assert ((batch.ids - 5) % 3 == 0).all()
    assert torch.equal(batch.labels, (batch.ids - 5) // 3 % 4)


def test_a_batch_is_a_function_of_its_number():
    one, two = batches(), batches()
    later = [one[step] for step in (0, 1, 2, 3)]
    for step in (3, 0, 2):
        assert_same(two[step], later[step])
    assert not torch.equal(later[0].views["large"], later[1].views["large"])
    other = batches(seed=1)[0]
    assert not torch.equal(other.ids, later[0].ids)


def test_an_image_is_seen_anew_in_each_epoch_and_view():
    store = fake_store(images=1)
    seen = [batches(store, batch_size=1)[step] for step in range(6)]
    views = [batch.views["large"][0, view] for batch in seen for view in (0, 1)]
    assert len({view.numpy().tobytes() for view in views}) == 12
    assert len({batch.masks["large"].numpy().tobytes() for batch in seen}) > 3
    colours = torch.cat([batch.colours["large"][0] for batch in seen])
    assert len(colours.unique(dim=0)) == 12


@pytest.mark.parametrize(
    ("channels", "dtype", "spec"),
    [(3, "uint8", SPEC), (1, "uint16", PLAIN), (6, "uint16", PLAIN), (2, "float32", PLAIN)],
)
@pytest.mark.parametrize(("world", "accumulate"), [(1, 3), (2, 1), (2, 3), (4, 1)])
def test_a_global_batch_is_dealt_out_without_change(channels, dtype, spec, world, accumulate):
    store = fake_store(channels=channels, dtype=dtype)
    whole = batches(store, spec)
    for step in (0, 1, 5):
        parts = [
            batches(store, spec, rank=rank, world=world, accumulate=accumulate)[number]
            for rank in range(world)
            for number in range(step * accumulate, (step + 1) * accumulate)
        ]
        assert {len(part.ids) for part in parts} == {12 // world // accumulate}
        assert_same(joined(parts), whole[step])


def test_an_epoch_shows_every_image_once():
    made = batches(batch_size=5)
    ids = torch.cat([made[step].ids for step in range(len(made))])
    assert sorted(ids.tolist()) == made.store.ids.tolist()


@pytest.mark.parametrize("dealt", [{"world": 5}, {"accumulate": 8}, {"world": 3, "accumulate": 8}])
def test_a_batch_that_cannot_be_dealt_out_is_refused(dealt):
    with pytest.raises(ConfigError, match="batch_size 12 cannot be dealt"):
        batches(**dealt)


def test_a_recipe_that_does_not_suit_the_images_is_refused_at_once():
    with pytest.raises(ConfigError, match="'large'"):
        batches(fake_store(channels=5))


def test_fixed_batches_come_in_order_and_never_change():
    made = batches(batch_size=8, fixed=True)
    assert len(made) == 3
    parts = [made[number] for number in range(3)]
    assert [len(part.ids) for part in parts] == [8, 8, 4]
    whole = batches(batch_size=20, fixed=True)[0]
    assert torch.equal(whole.ids, torch.from_numpy(made.store.ids))
    assert_same(joined(parts), whole)
    assert_same(made[1], parts[1])


def test_each_image_is_decoded_once_a_step_and_no_crop_is_enlarged_for_it():
    store = fake_store(small=60, large=400)
    made = batches(store, ViewSpec({"a": Crops(24, 2, scale=(0.3, 1)), "b": Crops(12, 4)}))
    made[0]
    assert len(store.shrinks) == 12
    assert max(store.shrinks) >= 4
    plain = fake_store(small=60, large=400)
    plain.image = lambda index, shrink=1: plain.images[index]
    exact = batches(plain, made.spec)[0]
    for group, views in made[0].views.items():
        apart = (views.float() - exact.views[group].float()).abs()
        assert apart.mean() < 4.0  # the fake leaves pixels out, which shifts it by half of one


@pytest.mark.parametrize(
    ("side", "by"), [(100, 1), (447, 1), (448, 2), (895, 2), (896, 4), (1791, 4), (1792, 8)]
)
def test_an_image_is_decoded_as_small_as_its_crop_allows(side, by):
    boxes = np.array([[0, 0, side, 5000], [0, 0, 5000, side]])
    nothing = np.zeros((2, 0, 0))
    sizes = np.full((2, 2), 6000)
    view = View(Crops(224), sizes, boxes, boxes > 0, boxes > 0, nothing, nothing, nothing)
    assert view.shrinks.tolist() == [by, by]


def test_images_smaller_than_a_box_asks_for_are_decoded_whole():
    store = fake_store(small=20, large=31)
    batches(store)[0]
    assert set(store.shrinks) == {1}


def test_finished_views_are_normalised_floats():
    batch = batches(spec=PLAIN)[0]
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    before = batch.views["image"].clone()
    views = finish(batch, PLAIN, mean, std).views["image"]
    expected = (before.double() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    assert views.dtype == torch.float32
    torch.testing.assert_close(views.double(), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(batch.views["image"], before)
    assert finish(batch, PLAIN, mean, std).colours == {}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_types_are_finished_over_their_own_range(dtype):
    batch = batches(fake_store(channels=2, dtype=dtype), PLAIN)[0]
    before = batch.views["image"].clone()
    views = finish(batch, PLAIN, torch.tensor([0.4, 0.5]), torch.tensor([0.2, 0.1])).views["image"]
    unit = before.double() / (65535 if dtype == "uint16" else 1)
    expected = (unit - torch.tensor([[[0.4]], [[0.5]]])) / torch.tensor([[[0.2]], [[0.1]]])
    torch.testing.assert_close(views.double(), expected.double(), rtol=1e-5, atol=2e-6)
    assert torch.equal(batch.views["image"].double(), before.double())


def test_finishing_applies_each_images_own_colours():
    batch = batches()[0]
    zero, one = torch.zeros(3), torch.ones(3)
    views = finish(batch, SPEC, zero, one).views["large"]
    expected = apply_colours(batch.views["large"].float() / 255, batch.colours["large"], COLOURS)
    assert ((views - expected).abs() > 2e-5).float().mean() < 1e-3
    assert (views - batch.views["large"] / 255).abs().mean() > 0.02


def test_a_store_without_labels_gives_none():
    store = fake_store()
    store.labels = None
    assert batches(store)[0].labels is None


def test_batches_travel_to_another_device_and_back_whole():
    batch = batches()[0]
    assert_same(batch.to("cpu"), batch)
    assert np.isin(batch.ids.numpy(), batches().store.ids).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_finished_on_an_accelerator_is_the_same():
    batch, mean, std = batches()[0], torch.full((3,), 0.4), torch.full((3,), 0.2)
    here = finish(batch, SPEC, mean, std)
    there = finish(batch.to("cuda"), SPEC, mean.cuda(), std.cuda())
    for group, views in here.views.items():
        assert ((views - there.views[group].cpu()).abs() > 1e-3).float().mean() < 1e-3
