"""Keras's files: ``.keras``, ``.weights.h5``, and HDF5 models. A map of this folder::

    contents.py   the layers of a file: their configuration and variables
    hdf5.py       groups, arrays and texts of an HDF5 file

Nothing is imported here.
"""
