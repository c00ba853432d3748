"""From settings to what a run needs in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlabel.config import PretrainConfig
from unlabel.errors import ConfigError
from unlabel.training.run import Run
from unlabel.training.setup import assemble


@pytest.mark.parametrize("parts", [{"batch_size": 1}, {"batch_size": 4, "accumulate": 4}])
def test_a_single_image_has_nothing_to_be_compared_with(tmp_path: Path, shapes_store, parts):
    settings = {"data": shapes_store, "method": "simclr", "trackers": [], **parts}
    settings["model"] = {"name": "resnet_nano", "image_size": 16}
    config = PretrainConfig.model_validate(settings)
    with pytest.raises(ConfigError, match="one at a time"):
        assemble(Run.create(tmp_path / "run", config, {}))
