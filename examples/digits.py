"""The data of the digits example: scikit-learn's handwritten digits, each 8×8 image a sequence of its 8 rows.

1,797 images, split once and for all: two thirds for training and one third held out, stratified by digit, with a fixed
seed. The split is by image (the data do not tell the writers), so the hands of the held-out images are known from
training. Nothing is chosen by looking at the held-out third.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(NamedTuple):
    """Images (sequences, 8 rows, 8 columns) of values from 0 to 1, float32, and the digits they show."""

    images: np.ndarray
    digits: np.ndarray


def split() -> tuple[Digits, Digits]:
    """The 1,198 training images and the 599 held-out images, always the same."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, data.target, test_size=1 / 3, stratify=data.target, random_state=0
    )
    return Digits(train_x, train_y), Digits(test_x, test_y)
