"""What a method wants of an image, made true: crops, masks and colours of one step's images.

Everything is drawn by (seed, epoch, image id, view), so a batch is the same whoever makes it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unlabel.data.augment import apply_colours, check_recipe, draw_colours
from unlabel.data.augment_cpu import colour_pixels
from unlabel.data.background import check_removal, draw_removals
from unlabel.data.crops import draw_boxes
from unlabel.data.cutting import View
from unlabel.data.masks import draw_masks
from unlabel.data.order import Order
from unlabel.data.random import keys
from unlabel.data.spec import BackgroundRemoval, Batch, Crops, Photometric, ViewSpec
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
        ConfigError: the batch cannot be dealt out evenly, a recipe does not suit the images, or the
            store lacks a layer that the views need.
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
            if crops.background:
                check_removal(group, crops.background, store.info.dtype)
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
        self.layers = {name: store.layer(name) for name in layers_of(spec)}

    def __len__(self) -> int:
        """Batches that show every image once."""
        return -(-len(self.store) // self.batch_size) * self.accumulate

    def __getitem__(self, number: int) -> Batch:
        positions, epochs = self._images(number)
        ids = self.store.ids[positions]
        labels = self.store.labels
        batch = Batch(
            views={},
            masks={
                group: torch.from_numpy(draw_masks(mask, self._key(f"mask/{group}", epochs, ids)))
                for group, mask in self.spec.masks.items()
            },
            ids=torch.from_numpy(ids),
            labels=None if labels is None else torch.from_numpy(labels[positions]),
        )
        views: list[View] = []
        for group, crops in self.spec.crops.items():
            views += self._plan(batch, group, crops, positions, epochs)
            if not crops.photometric.is_identity:
                drawn = [
                    draw_colours(crops.photometric, self._key(f"colour/{group}/{v}", epochs, ids))
                    for v in range(crops.count)
                ]
                batch.colours[group] = torch.from_numpy(np.stack(drawn, axis=1))
        self._cut(views, positions)
        return batch

    def _images(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the store and epochs of one batch."""
        if self.fixed:
            first = number * self.batch_size
            positions = np.arange(first, min(first + self.batch_size, len(self.store)))
            return positions, np.zeros_like(positions)
        update, part = divmod(number, self.accumulate)
        first = update * self.batch_size + self.rank * self.share + part * self.micro
        return self.order.samples(first, self.micro)

    def _plan(
        self, batch: Batch, group: str, crops: Crops, positions: np.ndarray, epochs: np.ndarray
    ) -> list[View]:
        """Draw the crops of one group, and give the batch the tensors that they will fill."""
        info, ids = self.store.info, self.store.ids[positions]
        pixels = np.empty((len(ids), crops.count, *(crops.size,) * 2, info.channels), info.dtype)
        batch.views[group] = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
        segments = np.zeros((len(ids), crops.count, *(crops.segments or 0,) * 2), np.uint8)
        if crops.segments:
            batch.segments[group] = torch.from_numpy(segments)
        removal = crops.background or BackgroundRemoval(0)
        sizes = self.store.sizes[positions]
        return [
            View(
                crops,
                sizes,
                *draw_boxes(crops, sizes, self._key(f"crop/{group}/{v}", epochs, ids)),
                *draw_removals(removal, self._key(f"background/{group}/{v}", epochs, ids)),
                pixels[:, v],
                segments[:, v],
            )
            for v in range(crops.count)
        ]

    def _cut(self, views: list[View], positions: np.ndarray) -> None:
        """Fill what was planned, one decoding an image; masks are read only where they are used."""
        shrinks = np.min([view.shrinks for view in views], axis=0)
        for i, position in enumerate(positions):
            image = self.store.image(position, int(shrinks[i]))
            for view in views:
                view.cut(i, image)
            if self.layers:
                self._foreground(i, position, [view for view in views if view.removed[i]])
                self._segments(i, position, [view for view in views if view.crops.segments])

    def _foreground(self, i: int, position: int, views: list[View]) -> None:
        if views and (mask := self._mask("foreground", position)) is not None:
            for view in views:
                view.remove_background(i, mask, self.store.info.mean)

    def _segments(self, i: int, position: int, views: list[View]) -> None:
        if views and (mask := self._mask("segments", position)) is not None:
            for view in views:
                view.cut_segments(i, mask)

    def _mask(self, layer: str, position: int) -> np.ndarray | None:
        return self.layers[layer].mask(int(self.store.ids[position]))

    def _key(self, stream: str, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return keys(self.seed, stream, epochs, ids)


def layers_of(spec: ViewSpec) -> list[str]:
    """The layers of the store that views need."""
    groups = spec.crops.values()
    wanted = {
        "foreground": any(crops.background and crops.background.p for crops in groups),
        "segments": any(crops.segments for crops in groups),
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def used_layers(store: Store, spec: ViewSpec) -> dict[str, str]:
    """The fingerprints of the layers that the views are cut from."""
    return {name: store.layer(name).info.fingerprint for name in layers_of(spec)}


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
    return replace(batch, views=views, colours={})


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
