"""Keras's files: ``.keras``, ``.weights.h5``, and HDF5 models. A map of this folder, each module above its imports::

    model.py      a model: its configuration in one form, its weights by layer
    weights.py    which arrays of a file are whose
    config.py     the configuration in one form, whatever version wrote it
    shapes.py     which weights a layer has
    archive.py    what is in a file: configuration, version, groups of arrays
    contents.py   the names of groups; files that are written
    hdf5.py       groups, arrays and texts of an HDF5 file
    headers.py    the headers of its objects, checked before HDF5 reads them
    heaps.py      its heaps of names and texts, likewise

Only h5py is needed. Nothing in a file is executed: of the configuration, names and numbers are read. Every file is
taken as hostile: links out of the file, data in other files, and compressed data are refused.

Nothing is imported here.
"""
