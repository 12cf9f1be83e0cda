"""The source of plugins that tests install."""

SUBCLASS = "from cylstm.backends.numpy_backend import NumpyBackend\nclass Plugin(NumpyBackend):\n    name = '{name}'\n"
