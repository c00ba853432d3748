"""The colour recipes of the view-matching papers by name, each parameter as published.

Sources: SimCLR's, BYOL's, MoCo v3's, SwAV's and DINO's own code, as the method cards cite them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unlabel.data.spec import Photometric


@dataclass(frozen=True)
class Recipe:
    """Colours of large crops, in turn where they differ from view to view, and of small crops."""

    large: tuple[Photometric, ...]
    small: Photometric

    def adapted(self, *, strength: float, blur: bool, channels: int, floats: bool) -> Recipe:
        """The recipe that makes sense of these images.

        Args:
            strength: factor of the jitter's widths, in [0, 1].
            blur: whether to keep the blur, which hides most of an image of 32 pixels.
            channels: without three there is no saturation, hue or grey.
            floats: pixels without a known range are neither jittered nor solarised.
        """

        def adapt(colours: Photometric) -> Photometric:
            return replace(
                colours,
                jitter_p=0.0 if floats else colours.jitter_p,
                brightness=colours.brightness * strength,
                contrast=colours.contrast * strength,
                saturation=colours.saturation * strength * (channels == 3),
                hue=colours.hue * strength * (channels == 3),
                grey_p=colours.grey_p * (channels == 3),
                blur_p=colours.blur_p * blur,
                solarize_p=0.0 if floats else colours.solarize_p,
            )

        return Recipe(tuple(map(adapt, self.large)), adapt(self.small))


_SIMCLR = Photometric(
    jitter_p=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey_p=0.2, blur_p=0.5
)
_PAIR = Photometric(jitter_p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey_p=0.2)
_FIRST, _SECOND = replace(_PAIR, blur_p=1.0), replace(_PAIR, blur_p=0.1, solarize_p=0.2)
_LOCAL = replace(_PAIR, blur_p=0.5)


def _additive(colours: Photometric) -> Photometric:
    """Brightness as BYOL has it: one offset an image instead of a factor."""
    return replace(colours, additive_brightness=True)


RECIPES: dict[str, Recipe] = {
    "none": Recipe((Photometric(),), Photometric()),
    "simclr": Recipe((_SIMCLR,), _SIMCLR),
    "swav": Recipe((_SIMCLR,), _SIMCLR),
    "byol": Recipe((_additive(_FIRST), _additive(_SECOND)), _additive(_LOCAL)),
    "mocov3": Recipe((_FIRST, _SECOND), _LOCAL),
    "dino": Recipe((_FIRST, _SECOND), _LOCAL),
}
"""By name. BYOL and MoCo v3 have no small crops; theirs here are DINO's."""
