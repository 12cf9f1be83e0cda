"""Modules in files: ``save`` and ``load``. A map of this folder::

modules.py     which names and shapes are an LSTM, an LSTMCell or a Linear; save, load
container.py   the file formats: safetensors, npz
"""

from .modules import load, save

__all__ = ["load", "save"]
