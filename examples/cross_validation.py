"""An LSTM among scikit-learn's tools: in a pipeline, scored by cross-validation, its size chosen by a grid search.

skorch makes a scikit-learn classifier of a PyTorch module, whose LSTM is ``cylstm.torch.LSTM``. The data are
scikit-learn's handwritten digits, each image a sequence of its 8 rows, split as in ``digits.py``. The held-out third is
looked at once, at the end. Run it from anywhere, with PyTorch and skorch installed beside the ``examples`` extra::

    python examples/cross_validation.py

The exit status is 1 if less than 0.93 of the held-out images are read right.
"""

from __future__ import annotations

import argparse
import sys

from settings import missing

try:
    import numpy as np
    import torch
    from digits import split
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback
    from torch import nn
    from tqdm import tqdm

    import cylstm
    import cylstm.torch
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)
SIZES = [16, 64]  # of the hidden state
REQUIRED_ACCURACY = 0.93


class DigitReader(nn.Module):
    """An LSTM over the rows of an image, a linear layer on the last hidden state."""

    def __init__(self, hidden_size: int = 32, lstm: type[nn.LSTM] = cylstm.torch.LSTM) -> None:
        super().__init__()
        self.lstm = lstm(8, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        _, (h_n, _) = self.lstm(images)
        return self.head(h_n[-1])


class Advance(Callback):
    """One step of the bar on the terminal after each epoch; scikit-learn copies its estimators, and this with them."""

    bar: tqdm | None = None

    def on_epoch_end(self, net: NeuralNetClassifier, **kwargs: object) -> None:
        if Advance.bar is not None:
            Advance.bar.update()


def rows(pixels: np.ndarray) -> np.ndarray:
    """(B, 64) to (B, 8, 8), float32."""
    return pixels.reshape(-1, 8, 8).astype(np.float32)


def make_pipeline(*, epochs: int, **module: object) -> Pipeline:
    """Pixels, scaled by what the training images alone say, then rows, then the LSTM."""
    net = NeuralNetClassifier(
        DigitReader,
        **{f"module__{name}": value for name, value in module.items()},
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-2,
        max_epochs=epochs,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=None,  # the folds are the validation
        callbacks=[Advance],
        verbose=0,
    )
    return Pipeline([("scale", StandardScaler()), ("rows", FunctionTransformer(rows)), ("net", net)])


def cross_validate(pixels: np.ndarray, digits: np.ndarray, *, epochs: int, **module: object) -> np.ndarray:
    """The accuracy in each fold. All that is random follows from one seed."""
    torch.manual_seed(0)
    return cross_val_score(make_pipeline(epochs=epochs, **module), pixels, digits, cv=FOLDS, error_score="raise")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12, help="of each training (12)")
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    training, held_out = split()
    pixels = training.images.reshape(-1, 64)

    trainings = 2 * FOLDS.n_splits + len(SIZES) * FOLDS.n_splits + 1  # two LSTMs, the search, the winner once more
    Advance.bar = tqdm(total=trainings * epochs, unit="epoch", desc=f"{trainings} trainings")
    for lstm in (nn.LSTM, cylstm.torch.LSTM):
        scores = cross_validate(pixels, training.digits, epochs=epochs, lstm=lstm)
        text = f"{lstm.__module__:24} accuracy in {len(scores)} folds: {' '.join(f'{s:.4f}' for s in scores)}"
        Advance.bar.write(text)

    torch.manual_seed(0)
    grid = {"net__module__hidden_size": SIZES}
    search = GridSearchCV(make_pipeline(epochs=epochs), grid, cv=FOLDS, error_score="raise")
    search.fit(pixels, training.digits)
    Advance.bar.close()
    Advance.bar = None
    for size, score in zip(SIZES, search.cv_results_["mean_test_score"], strict=True):
        print(f"{f'hidden size {size}':24} mean accuracy {score:.4f}")
    accuracy = search.score(held_out.images.reshape(-1, 64), held_out.digits)
    print(f"{'best size':24} {search.best_params_['net__module__hidden_size']} of {SIZES}, {search.best_score_:.4f}")
    print(f"{'held-out accuracy':24} {accuracy:.4f}")

    # The winner without PyTorch: NumPy in, NumPy out.
    best = search.best_estimator_
    module = best["net"].module_
    lstm, head = cylstm.LSTM.from_torch(module.lstm), cylstm.Linear.from_torch(module.head)
    _, (h_n, _) = lstm(best[:-1].transform(held_out.images.reshape(-1, 64)))
    same = head(h_n[-1]).argmax(axis=1) == best.predict(held_out.images.reshape(-1, 64))
    print(f"{'read the same by':24} {lstm}: {same.mean():.4f}")
    return 0 if accuracy >= REQUIRED_ACCURACY and same.all() else 1


if __name__ == "__main__":
    sys.exit(main())
