"""Keras's LSTMCell, and RNN around one or several of them: what LSTM layers compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..files.contents import CELL
from .base import BatchShape, Layer, Recurrent, of_keras
from .recurrent import LSTM, separated


class LSTMCell:
    """One step of an LSTM, for `RNN`.

    Parameters
    ----------
    units : int
    **options
        As for `LSTM`, without those of sequences.
    """

    def __init__(self, units: int, *arguments: Any, **options: Any) -> None:
        layer = LSTM(units, *arguments, **options)  # checks them
        self.name, self.units = layer.name if layer._named else "lstm_cell", layer.units
        self.arguments, self.options = (units, *arguments), options

    def layer(self, **options: Any) -> LSTM:
        """The LSTM layer that takes these steps."""
        return LSTM(*self.arguments, **(self.options | options))


class StackedRNNCells:
    """Cells of which each takes the output of the one before.

    Parameters
    ----------
    cells : sequence of LSTMCell
    name : str, optional
    """

    def __init__(self, cells: Sequence[LSTMCell], name: str | None = None) -> None:
        if not cells or not all(isinstance(cell, LSTMCell) for cell in cells):
            kinds = ", ".join(type(cell).__name__ for cell in cells)
            raise TypeError(f"cells must be some cylstm.keras.LSTMCell, got {kinds or 'none'}")
        self.cells, self.name = list(cells), name or "stacked_rnn_cells"


class RNN(Recurrent):
    """A layer of LSTM cells, computed as LSTM layers.

    Parameters
    ----------
    cell : LSTMCell, StackedRNNCells or sequence of LSTMCell
    return_sequences, return_state, go_backwards, stateful, zero_output_for_mask, time_major : bool
        As for `LSTM`; return_state with one cell alone.
    **options
        As for `Layer`.
    """

    _arguments = ("return_sequences", "return_state", "go_backwards", "stateful", "zero_output_for_mask")
    _of_training = ("unroll",)
    _dimensions = (3,)

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        *,
        zero_output_for_mask: bool = False,
        time_major: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(cell, LSTMCell):
            cell = cell if isinstance(cell, StackedRNNCells) else StackedRNNCells(cell)
        cells = [cell] if isinstance(cell, LSTMCell) else cell.cells
        self.cell = cell
        if return_state and len(cells) > 1:
            raise ValueError(f"return_state must be False with {len(cells)} cells, got True: use one, or LSTM layers")
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards, self.stateful = bool(go_backwards), bool(stateful)
        self.zero_output_for_mask, self.time_major = bool(zero_output_for_mask), bool(time_major)
        common = {"stateful": self.stateful, "time_major": self.time_major, "dtype": self.dtype}
        self._layers = [one.layer(**common, return_sequences=True, name=one.name) for one in cells]
        self._layers[0].go_backwards = self.go_backwards
        last = self._layers[-1]
        last.return_sequences, last.return_state = self.return_sequences, self.return_state
        last.zero_output_for_mask = self.zero_output_for_mask

    def inner_layers(self) -> dict[str, Layer]:
        """The layers by the paths of their groups in Keras's files."""
        if isinstance(self.cell, LSTMCell):
            return {"": self._layers[0]}
        return {f"cells/{n}": layer for n, layer in enumerate(self._layers)}

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights by the paths of their groups in Keras's files."""
        arrays = [list(layer._kept().values()) for layer in self._layers]
        if isinstance(self.cell, LSTMCell):
            return {CELL: arrays[0]}
        return {f"cell/cells/lstm_cell{f'_{n}' if n else ''}": one for n, one in enumerate(arrays)}

    def build(self, input_shape: BatchShape, weights: Iterator[np.ndarray] | None = None) -> None:
        """Make the weights for input (B, T, I)."""
        given = self._given_weights() if weights is None else weights
        for layer in self._layers:
            layer.build(input_shape, given)
            input_shape = (*input_shape[:2], layer.units)
        self.built = True
        if weights is None:
            self._check_all_taken(given)

    def compute_output_shape(self, input_shape: BatchShape) -> Any:
        """As that of the LSTM of the last cell."""
        return self._layers[-1].compute_output_shape(input_shape)

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """As that of the LSTM of the last cell."""
        return self._layers[-1].compute_mask(x, mask)

    def __call__(self, x: Any, initial_state: Sequence[Any] | None = None, mask: Any = None) -> Any:
        """Run the layers; the arguments are those of `LSTM`, with two arrays of initial_state for each cell."""
        return self.run(x, mask, initial_state)[0]

    def run(self, x: Any, mask: Any = None, initial_state: Sequence[Any] | None = None) -> tuple[Any, Any]:
        """The output, and the mask that goes with it."""
        x, mask, initial_state = separated(x, mask, initial_state)
        x = self._entered(x)
        count = 2 * len(self._layers)
        if initial_state is not None and len(initial_state) != count:
            raise ValueError(f"initial_state must be {count} arrays, h and c of each cell, got {len(initial_state)}")
        following = self.compute_mask(x, mask)
        for n, layer in enumerate(self._layers):
            state = None if initial_state is None else initial_state[2 * n : 2 * n + 2]
            x = layer(x, state, mask)
            if n == 0 and self.go_backwards and mask is not None:
                mask = np.asarray(mask)[::-1] if self.time_major else np.asarray(mask)[:, ::-1]
        return x, following

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one, by their names in Keras."""
        cells = [of_keras("LSTMCell", _cell_config(one)) for one in self._layers]
        several = of_keras("StackedRNNCells", {"name": getattr(self.cell, "name", ""), "cells": cells})
        return super().get_config() | {"cell": cells[0] if isinstance(self.cell, LSTMCell) else several}


def _cell_config(layer: LSTM) -> dict[str, Any]:
    of_sequences = {"return_sequences", "return_state", "go_backwards", "stateful", "zero_output_for_mask"}
    return {name: value for name, value in layer.get_config().items() if name not in of_sequences}
