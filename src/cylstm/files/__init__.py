"""Modules in files: ``cylstm.save``, ``cylstm.load``. A map of this folder, each module above those that it imports::

    formats.py       the formats by extension; save and load
    modules.py       modules of names and shapes, and the other way round
    frozen.py        those of frozen modules
    names.py         whose the names in a file are: kinds and prefixes
    safetensors.py   the format safetensors
    sharded.py       the index of a model in several files
    npz.py           the format .npz
    checkpoint.py    PyTorch's checkpoints: the archive, and the older row of pickles
    script.py        what the code in an archive of TorchScript tells
    nested.py        the tensors among what a checkpoint holds, by name
    stored.py        PyTorch's storages and tensors
    pickles.py       pickle streams, read as data
    archive.py       zip archives: opened, and bounded
    container.py     what all formats share: contents, errors, limits, a file replaced as a whole

Nothing is imported here, for the bridges to other systems' files (``cylstm.onnx``, ``cylstm.keras``) stand between
``formats`` and the rest.
"""
