"""Write the digits 0-4 and 5-9 of MNIST as four files, such as low-train.npz, with the classes 0 to 4 in each.

python experiments/finetune/halves.py FOLDER    # of MNIST's four IDX files
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from framework_data.idx import read_idx
from framework_data.images import find
from framework_data.mnist import MNIST


def main(folder: Path) -> None:
    """Write the files to the current folder."""
    images, labels, *test = (read_idx(find(folder, file) or folder / file.name, file) for file in MNIST.files)
    for split, inputs, targets in (("train", images, labels), ("test", *test)):
        pixels = (inputs[..., None] / 255 - MNIST.mean) / MNIST.std
        for half, first in (("low", 0), ("high", 5)):
            rows = (targets >= first) & (targets < first + 5)
            np.savez(f"{half}-{split}.npz", inputs=pixels[rows].astype(np.float32), targets=targets[rows] - first)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
