"""The variant ``cudnn`` against the real libcudnn: signatures, descriptors, layout of the weights. No GPU is needed.

cuDNN describes layers without a GPU and gives the layout of their weights; it makes no handle, so memory of zeros
stands for one. With a GPU at hand, the values are compared, too.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from ctypes import byref, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_host import HostDevice, needs_gpu, without_gpu
from device_array import to_device
from host_cudnn import PARAMETERS

from cylstm import testing
from cylstm.backends.cupy_backend.cudnn import Cudnn, CudnnError, find
from cylstm.backends.cupy_backend.cudnn.algorithms import ALGORITHMS, Conditions, algorithms
from cylstm.backends.cupy_backend.cudnn.descriptors import DTYPES, descriptor, descriptors, rnn_descriptor
from cylstm.backends.cupy_backend.cudnn.library import SIGNATURES, SONAME, Library, _places
from cylstm.backends.cupy_backend.cudnn.weight_space import Layout, layout
from cylstm.backends.cupy_backend.variants import LayerShape
from cylstm.testing.problems import make_problem

pytestmark = pytest.mark.names_backend("cupy")

FOUND = find()
needs_cudnn = pytest.mark.skipif(isinstance(FOUND, str), reason=f"no cuDNN: {FOUND}")
EQUAL, RAGGED = np.array([5, 5, 5]), np.array([5, 4, 2])
HANDLE = ctypes.create_string_buffer(1 << 16)
LAYER = LayerShape("float32", I=3, H=4, P=0, D=1, bias=True)


@pytest.fixture
def library() -> Library:
    assert isinstance(FOUND, Library)
    return FOUND


@pytest.fixture
def handle() -> c_void_p:
    """In the place of a handle, which cuDNN makes on a GPU alone."""
    return c_void_p(ctypes.addressof(HANDLE))


# Found ---------------------------------------------------------------------------------------------------------------


def found_in(script: str, **environment: str) -> str:
    script = f"import sys; {script}; from cylstm.backends.cupy_backend.cudnn.library import find; print(find())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    ).stdout


@needs_cudnn
def test_it_is_found_in_the_wheel_of_nvidia_and_nothing_is_imported() -> None:
    assert "Library object" in found_in("pass")
    assert found_in(
        "import cylstm.backends.cupy_backend.cudnn.library as l; l.find(); print('torch' in sys.modules)"
    ) != ("True")


@needs_cudnn
def test_what_the_process_has_loaded_is_taken() -> None:
    """PyTorch's, say: two cuDNN in one process would be two sets of kernels and handles."""
    (path, *_) = _places()
    script = f"import ctypes; ctypes.CDLL({path!r}); sys.path[:] = [p for p in sys.path if 'cudnn' not in p]"
    assert "Library object" in found_in(script)


def test_where_it_is_not_found_it_is_said_how_to_install_it() -> None:
    script = "import cylstm.backends.cupy_backend.cudnn.library as l; l._places = lambda: (); l.SONAME = 'libnone.so.9'"
    assert re.match(r"cuDNN 9 is not found \(libnone.so.9.*\): pip install nvidia-cudnn-cu13", found_in(script))


# Called --------------------------------------------------------------------------------------------------------------


def headers() -> dict[str, list[str]]:
    """The parameters of each function in the headers beside the library."""
    found: dict[str, list[str]] = {}
    for place in _places():
        for name in ("cudnn_graph.h", "cudnn_ops.h", "cudnn_adv.h"):
            header = Path(place).parents[1] / "include" / name
            text = re.sub(r"/\*.*?\*/", "", header.read_text("utf-8"), flags=re.DOTALL) if header.exists() else ""
            for function, parameters in re.findall(r"\b(cudnn\w+)\(([^()]*)\);", text):
                found.setdefault(function, [" ".join(p.split()) for p in parameters.split(",")])
    return found


def kind(parameter: str) -> Any:
    """The type of ctypes for a parameter in C."""
    if "*" in parameter or "[" in parameter or re.search(r"(Handle|Stream|Descriptor)_t", parameter):
        return c_void_p
    types = {"int32_t": c_int32, "uint32_t": c_uint32, "size_t": c_size_t, "int": c_int}
    return types.get(parameter.removeprefix("const ").split()[0], c_int)  # the others are enumerations


@needs_cudnn
def test_signatures_are_those_of_the_headers() -> None:
    of_headers = headers()
    if not of_headers:
        pytest.skip("the library is here, its headers are not")
    for name, arguments in SIGNATURES.items():
        ours = [c_void_p if a is ctypes.POINTER(c_void_p) else a for a in arguments]
        assert ours == [kind(parameter) for parameter in of_headers[name]], name
    for name, parameters in PARAMETERS.items():  # addresses have one type: their order is that of the names
        assert [re.findall(r"\w+", parameter)[-1] for parameter in of_headers[name]] == parameters.split(), name


@needs_cudnn
def test_an_error_names_the_call_and_the_status(library: Library) -> None:
    with pytest.raises(CudnnError, match=r"cudnnSetStream must succeed, got CUDNN_STATUS_BAD_PARAM.*\(200\d\): an arg"):
        library.call("cudnnSetStream", None, None)


@without_gpu
@needs_cudnn
def test_without_a_gpu_it_says_why_it_cannot_run() -> None:
    assert re.match(
        r"cudnnCreate must succeed, got CUDNN_STATUS_\w+ \(1\d\d\d\): .*driver", Cudnn(HostDevice()).unavailable()
    )


# Described -----------------------------------------------------------------------------------------------------------


@needs_cudnn
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_chosen_is_described(library: Library, dtype: str) -> None:
    """Each algorithm that sizes lead to, with the options of each."""
    described = set()
    for H in (1, 100, 128, 256, 1024, 1500):
        for P in (0, 1, H - 1):
            for D, lengths, training, tf32 in (
                (1, EQUAL, True, False),
                (2, EQUAL, False, True),
                (2, RAGGED, True, False),
            ):
                if P and P >= H:
                    continue
                shape = LayerShape(dtype, 128, H, P, D, True)
                ragged = lengths is RAGGED
                for B in (3, 8):
                    each = np.repeat(lengths, B // 3 + 1)[:B]
                    for algorithm in algorithms(shape, Conditions(B, ragged, training, tf32, 132)):
                        made = descriptors(library, shape, each, algorithm=algorithm, tf32=tf32)
                        assert all(one.value for one in vars(made).values())
                        described.add(algorithm)
    assert described == {
        "float16": {"standard", "persist_static", "persist_static_small_h"},
        "float64": {"standard"},
    }.get(dtype, {"standard", "persist_static_small_h"})


@needs_cudnn
def test_what_is_not_chosen_is_refused_by_cudnn_itself(library: Library) -> None:
    """The bounds of the choice are cuDNN's: no projection, no float64 in the persistent algorithms."""
    for algorithm in ("persist_static", "persist_static_small_h"):
        for shape in (LAYER._replace(P=2), LAYER._replace(dtype="float64")):
            with pytest.raises(CudnnError, match="NOT_SUPPORTED") as caught:
                descriptors(library, shape, EQUAL, algorithm=algorithm)
            assert caught.value.not_supported


@needs_cudnn
def test_lengths_of_sequences_are_read_as_they_are(library: Library) -> None:
    get = ctypes.CDLL(SONAME).cudnnGetRNNDataDescriptor
    for lengths, layout_expected in ((EQUAL, 0), (RAGGED, 1)):
        made = descriptors(library, LAYER, lengths, algorithm="standard")
        for rows, width in ((made.x, 3), (made.y, 4)):
            values, array, fill = [c_int() for _ in range(5)], (c_int * 3)(), c_void_p()
            assert get(rows, *map(byref, values), 3, array, byref(fill)) == 0
            assert [v.value for v in values] == [0, layout_expected, 5, 3, width]
            assert list(array) == lengths.tolist()


# The weight space ----------------------------------------------------------------------------------------------------

SHAPES = [
    LayerShape(dtype, I, H, P, D, True)
    for dtype in DTYPES
    for I, H, P, D in ((3, 4, 0, 1), (5, 7, 0, 2), (1, 1, 0, 1), (6, 9, 4, 2), (64, 128, 0, 2))
]


def layout_of(library: Library, handle: c_void_p, shape: LayerShape, algorithm: str = "standard") -> Layout:
    return layout(library, handle, shape, itemsize=itemsize(shape.dtype), algorithm=algorithm)


def itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4}.get(dtype, 2)


@needs_cudnn
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_parameter_has_a_place_of_its_own(library: Library, handle: c_void_p, shape: LayerShape) -> None:
    places = layout_of(library, handle, shape)
    taken = np.zeros(places.length, int)
    covered: dict[tuple[int, str], int] = {}
    for place in places.places:
        taken[place.elements] += 1
        key = (place.direction, place.parameter)
        covered[key] = covered.get(key, 0) + int(np.prod(place.shape))
    assert taken.max() == 1
    H, R = shape.H, shape.R
    sizes = {"weight_ih": 4 * H * shape.I, "weight_hh": 4 * H * R, "bias_ih": 4 * H, "bias_hh": 4 * H}
    sizes |= {"weight_hr": shape.P * H} if shape.P else {}
    assert covered == {(d, name): size for d in range(shape.D) for name, size in sizes.items()}


@needs_cudnn
def test_matrices_have_pytorchs_rows_and_columns(library: Library, handle: c_void_p) -> None:
    """cuDNN says so itself, of each matrix."""
    shape, get = LayerShape("float32", 5, 7, 4, 1, True), ctypes.CDLL(SONAME).cudnnGetTensorNdDescriptor
    for number, expected in enumerate([(7, 5)] * 4 + [(7, 4)] * 4 + [(4, 7)]):
        with ExitStack() as made:
            rnn = rnn_descriptor(library, shape, made, algorithm="standard", tf32=False, packed=False)
            matrix, bias = (descriptor(library, "Tensor", made) for _ in range(2))
            m, b = c_void_p(), c_void_p()
            arguments = (handle, rnn, 0, 1 << 20, c_void_p(1 << 32), number)
            library.call("cudnnGetRNNWeightParams", *arguments, matrix, byref(m), bias, byref(b))
            data, n, sizes, strides = c_int(), c_int(), (c_int * 3)(), (c_int * 3)()
            assert get(matrix, 3, byref(data), byref(n), sizes, strides) == 0
            assert (tuple(sizes)[1:], tuple(strides)[1:]) == (expected, (expected[1], 1))


@needs_cudnn
def test_all_algorithms_have_one_layout(library: Library, handle: c_void_p) -> None:
    """So the parameters are packed once, whichever algorithm a call takes."""
    for shape in (LayerShape("float16", 128, 128, 0, 2, True), LayerShape("float32", 3, 5, 0, 1, True)):
        first, *others = [layout_of(library, handle, shape, algorithm) for algorithm in ALGORITHMS]
        assert others == [first] * 2


@needs_cudnn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("P", [0, 2])
def test_parameters_go_in_and_come_out(library: Library, handle: c_void_p, P: int, bias: bool) -> None:
    problem = make_problem(testing.Case(D=2, P=P, bias=bias), "float32")
    shape = LayerShape.of(problem.parameters)
    places = layout_of(library, handle, shape)
    there = tuple(type(d)(*(None if p is None else to_device(p) for p in d)) for d in problem.parameters)
    space = places.packed(there, HostDevice())
    assert np.count_nonzero(space.get()) == sum(p.size for d in problem.parameters for p in d if p is not None)
    for found, expected in zip(places.parameters(space, HostDevice()), problem.parameters, strict=True):
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            if other is not None:
                np.testing.assert_array_equal(one.get(), other)


@needs_cudnn
def test_cudnn_has_the_gates_of_a_parameter_side_by_side(library: Library, handle: c_void_p) -> None:
    """So gradients need not be put together; they are parts of one array, where other libraries can read them there."""
    for shape in SHAPES:
        places = layout_of(library, handle, shape).places
        assert len(places) == shape.D * (4 + (shape.P > 0))
        assert {place.rows.start for place in places} == {0}


# On a GPU ------------------------------------------------------------------------------------------------------------


@needs_gpu
@needs_cudnn
def test_conformance_on_the_gpu() -> None:
    from cylstm.backends.cupy_backend import CupyBackend

    testing.check_backend(CupyBackend(tier="cudnn"))


@needs_gpu
@needs_cudnn
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("D", [1, 2])
def test_the_persistent_algorithms_on_the_gpu(dtype: str, D: int) -> None:
    """The kit's sizes do not lead to all algorithms; these do."""
    from cylstm.backends.cupy_backend import CupyBackend
    from cylstm.testing.compare import assert_close
    from cylstm.testing.problems import expected_outputs_and_gradients, outputs_and_gradients

    tf32 = dtype == "float32"  # or they are not used
    for H in (64, 128, 256, 512):
        case = testing.Case(T=6, B=16, I=128, H=H, D=D, states=True)
        problem = make_problem(case, dtype)
        result = outputs_and_gradients(CupyBackend(tier="cudnn", tf32=tf32), problem)
        expected = expected_outputs_and_gradients(problem)
        tolerance = testing.TOLERANCES["float16" if tf32 else dtype].gradients  # TF32 has the mantissa of float16
        assert_close(result, expected, dtype, tolerance, case)
