"""The recurrent weights as the registers of the persistent kernels hold them: fragments of mma.m16n8k16.

A thread's 16 bytes of what is polled are eight neighbouring k. They serve two steps of the mma, four k each: a sum may
take its terms in any order, so the k of a step are those that the thread has at hand. The weights follow that order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .configurations import Configuration

_LANE = np.arange(32)
_GROUP, _MEMBER = _LANE >> 2, _LANE & 3


def _pairs(configuration: Configuration, half: np.ndarray) -> np.ndarray:
    """The first of the two k in a word, for words of the lower or the upper half of a step: (warps, k_steps, ...)."""
    warp = np.arange(configuration.warps)[:, None, None, None, None]
    step = np.arange(configuration.k_steps)[:, None, None, None]
    first = (warp * configuration.k_steps + (step & ~1)) * 16
    return first + _MEMBER[:, None] * 8 + 4 * (step & 1) + 2 * half


def _words(matrix: Any, rows: np.ndarray, k: np.ndarray, xp: Any) -> Any:
    """The elements k and k + 1 of rows, in one word each. `matrix` is (blocks, rows, K) of 16 bits."""
    at = xp.asarray(np.broadcast_to(rows, np.broadcast_shapes(rows.shape, k.shape)).copy())
    low, high = (matrix[:, at, xp.asarray(np.broadcast_to(k + i, at.shape).copy())].astype(np.uint32) for i in (0, 1))
    return xp.ascontiguousarray(low | high << np.uint32(16))


def forward_fragments(weight_hh: Any, configuration: Configuration, xp: Any) -> Any:
    """weight_hh (4 H, H) of 16 bits as (blocks, warps, k_steps, 4 units / 16, 32, 4) words.

    Row 4 u + g of a block is that of its unit u and gate g.
    """
    H, units = weight_hh.shape[1], configuration.units
    blocks, K = configuration.blocks(H), configuration.warps * configuration.k_steps * 16
    gates = xp.zeros((4, blocks * units, K), np.uint16)
    gates[:, :H, :H] = weight_hh.view(np.uint16).reshape(4, H, H)
    matrix = gates.reshape(4, blocks, units, K).transpose(1, 2, 0, 3).reshape(blocks, 4 * units, K)
    tile = np.arange(units // 4)[:, None, None]
    word = np.arange(4)
    rows = tile * 16 + _GROUP[:, None] + 8 * (word & 1)
    return _words(matrix, rows[None, None], _pairs(configuration, word >> 1), xp)


def backward_fragments(weight_hh: Any, configuration: Configuration, xp: Any) -> Any:
    """weight_hh (4 H, H) of 16 bits as (blocks, warps, k_steps, units / 8, 32, 2) words: its columns, by block."""
    H, units = weight_hh.shape[1], configuration.units
    blocks, K = configuration.blocks(H), configuration.warps * configuration.k_steps * 16
    columns = xp.zeros((blocks * units, K), np.uint16)
    columns[:H, : 4 * H] = weight_hh.view(np.uint16).T
    tile = np.arange(units // 8)[:, None, None]
    rows = tile * 8 + _GROUP[:, None] + 0 * np.arange(2)
    return _words(columns.reshape(blocks, units, K), rows[None, None], _pairs(configuration, np.arange(2)), xp)
