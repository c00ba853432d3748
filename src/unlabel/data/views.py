"""What a method wants of an image, made true: crops, masks and colours of one step's images.

Everything is drawn by (seed, epoch, image id, view), so a batch is the same whoever makes it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unlabel.data.augment import apply_colours, check_recipe, draw_colours
from unlabel.data.augment_cpu import colour_pixels
from unlabel.data.crops import cut, draw_boxes
from unlabel.data.masks import draw_masks
from unlabel.data.order import Order
from unlabel.data.random import keys
from unlabel.data.spec import Batch, Crops, Photometric, ViewSpec
from unlabel.data.store import Store
from unlabel.errors import ConfigError


class Batches(Dataset):
    """The batches of a run, by their number; a pure function of (store, seed, number).

    One update of the weights is one global batch of ``batch_size`` images, dealt to ``world``
    processes in equal runs, each of which takes its share in ``accumulate`` micro-batches: batch
    number n is micro-batch n % accumulate of update n // accumulate.

    With ``fixed``, the images come in order and only once, the last batch may be smaller, and
    crops, masks and colours are the same whenever asked: for images that are held out.

    Raises:
        ConfigError: the batch cannot be dealt out evenly, or a recipe does not suit the images.
    """

    def __init__(
        self,
        store: Store,
        spec: ViewSpec,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        fixed: bool = False,
    ) -> None:
        if batch_size % (world * accumulate):
            raise ConfigError(
                f"batch_size {batch_size} cannot be dealt to {world} processes in {accumulate} "
                f"micro-batches: it must be a multiple of {world * accumulate}."
            )
        for group, crops in spec.crops.items():
            check_recipe(group, crops.photometric, store.info.channels, store.info.dtype)
        self.store = store
        self.spec = spec
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.accumulate = accumulate
        self.fixed = fixed
        self.share = batch_size // world
        self.micro = self.share // accumulate
        self.order = Order(len(store), batch_size, seed)

    def __len__(self) -> int:
        """Batches that show every image once."""
        return -(-len(self.store) // self.batch_size) * self.accumulate

    def __getitem__(self, number: int) -> Batch:
        positions, epochs = self._images(number)
        ids = self.store.ids[positions]
        labels = self.store.labels
        views, colours = self._views(positions, epochs, ids)
        masks = {
            group: torch.from_numpy(draw_masks(mask, self._key(f"mask/{group}", epochs, ids)))
            for group, mask in self.spec.masks.items()
        }
        return Batch(
            views=views,
            masks=masks,
            ids=torch.from_numpy(ids),
            labels=None if labels is None else torch.from_numpy(labels[positions]),
            colours=colours,
        )

    def _images(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the store and epochs of one batch."""
        if self.fixed:
            first = number * self.batch_size
            positions = np.arange(first, min(first + self.batch_size, len(self.store)))
            return positions, np.zeros_like(positions)
        update, part = divmod(number, self.accumulate)
        first = update * self.batch_size + self.rank * self.share + part * self.micro
        return self.order.samples(first, self.micro)

    def _views(
        self, positions: np.ndarray, epochs: np.ndarray, ids: np.ndarray
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Crops of every group as stored pixels, one decoding an image; and their colours."""
        sizes = self.store.sizes[positions]
        plans, views, colours = [], {}, {}
        for group, crops in self.spec.crops.items():
            shape = (len(positions), crops.count, crops.size, crops.size, self.store.info.channels)
            pixels = np.empty(shape, self.store.info.dtype)
            views[group] = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
            for view in range(crops.count):
                key = self._key(f"crop/{group}/{view}", epochs, ids)
                plans.append((crops, *draw_boxes(crops, sizes, key), pixels[:, view]))
            if not crops.photometric.is_identity:
                drawn = [
                    draw_colours(crops.photometric, self._key(f"colour/{group}/{v}", epochs, ids))
                    for v in range(crops.count)
                ]
                colours[group] = torch.from_numpy(np.stack(drawn, axis=1))
        for i, position in enumerate(positions):
            shrink = min(_shrink(crops, boxes[i]) for crops, boxes, _, _ in plans)
            image = self.store.image(position, shrink)
            scale = np.tile(image.shape[:2] / sizes[i], 2)
            for crops, boxes, flips, out in plans:
                box = boxes[i] if scale[0] == scale[1] == 1 else _scaled(boxes[i], scale)
                cut(image, box, bool(flips[i]), crops.size, crops.interpolation, out[i])
        return views, colours

    def _key(self, stream: str, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return keys(self.seed, stream, epochs, ids)


def _shrink(crops: Crops, box: np.ndarray) -> int:
    """How much smaller an image may be decoded so that this crop is still shrunk, not enlarged."""
    spare = min(box[2], box[3]) // crops.size
    return 8 if spare >= 8 else 4 if spare >= 4 else 2 if spare >= 2 else 1


def _scaled(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A box of the whole image on its smaller decoding; never empty."""
    ends = np.rint((box + np.concatenate([[0, 0], box[:2]])) * scale)
    return np.concatenate([ends[:2], np.maximum(ends[2:] - ends[:2], 1)])


def finish(batch: Batch, spec: ViewSpec, mean: Tensor, std: Tensor) -> Batch:
    """Turn stored pixels into normalised floats with colours applied, on the batch's device.

    Args:
        batch: from ``Batches``; its views are integers over their type's range, or floats.
        spec: the method's.
        mean: (C,), of pixels in [0, 1], on the device.
        std: likewise.

    Returns:
        The batch with float32 views, channels last in memory, and without colours.
    """
    views = {}
    for group, pixels in batch.views.items():
        most = 1 if pixels.dtype.is_floating_point else torch.iinfo(pixels.dtype).max
        if group in batch.colours:
            recipe = spec.crops[group].photometric
            views[group] = _colour(pixels, most, batch.colours[group], recipe)
            _normalise(views[group], mean, std)
        else:
            views[group] = pixels.to(torch.float32, copy=True)
            _normalise(views[group], mean * most, std * most)
    return Batch(views, batch.masks, batch.ids, batch.labels)


def _colour(pixels: Tensor, most: int, colours: Tensor, recipe: Photometric) -> Tensor:
    """Coloured floats in [0, 1]: (B, V, C, H, W), channels last in memory, a new tensor."""
    if pixels.device.type != "cpu":
        return apply_colours(pixels.float().div_(most), colours, recipe)
    images = pixels.flatten(0, 1).permute(0, 2, 3, 1).numpy()
    coloured = torch.from_numpy(colour_pixels(images, colours.flatten(0, 1).numpy(), recipe))
    return coloured.permute(0, 3, 1, 2).view(pixels.shape)


def _normalise(images: Tensor, mean: Tensor, std: Tensor) -> None:
    """(images - mean) / std a channel, in place, over rows of pixels: one long axis is fastest."""
    width = images.shape[-1]
    rows = images.permute(0, 1, 3, 4, 2).flatten(3).flatten(0, 2)
    torch.addcmul((-mean / std).repeat(width), rows, (1 / std).repeat(width), out=rows)
