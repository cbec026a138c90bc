"""Synthetic images."""

import numpy as np

from vit_jax import config as config_lib
from vit_jax.data.sources.base import Record, Source
from vit_jax.data.sources.splits import select


class Synthetic(Source):
    """Noise with a brightness that depends on the class; for tests and throughput measurements."""

    def __init__(self, data: config_lib.Data, split: str) -> None:
        sizes = {"train": data.synthetic.train_examples, "test": data.synthetic.test_examples}
        class_names = tuple(f"class_{i}" for i in range(data.synthetic.num_classes))
        super().__init__(f"synthetic:{split}", class_names)
        self._selected = select(split, sizes)
        self._shape = (*data.image_size, data.channels)

    def __len__(self) -> int:
        return len(self._selected)

    def __getitem__(self, index: int) -> Record:
        split, number = self._selected[index]
        rng = np.random.default_rng([split == "test", number])
        label = int(rng.integers(len(self.class_names)))
        brightness = 32 + 192 * (label + 0.5) / len(self.class_names)
        image = rng.integers(-32, 32, self._shape, np.int16) + np.int16(brightness)
        return {"image": image.astype(np.uint8), "label": label}
