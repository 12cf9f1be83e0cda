"""The contract between cylstm and a backend. The shapes of every argument stand here, once.

A backend computes **one layer, all its directions, on packed rows**. Stacking, dropout between layers, ``batch_first``,
sorting of ragged batches, casting and devices are written once, in :class:`cylstm.LSTM`.

Symbols (the same in the docs, in Python, Cython, C and CUDA)::

    T  number of time steps            B  batch size: sequences, = batch_sizes[0]
    I  input_size                      H  hidden_size
    P  proj_size (0: no projection)    R  size of the recurrent state: P if P > 0 else H
    D  number of directions, 1 or 2    N  rows of packed data: N = sum(batch_sizes)

Packed rows are time-major: the rows of step 0, then the rows of step 1, and so on. Step t has ``batch_sizes[t]`` rows
and ``batch_sizes`` never grows with t, so row b of every step belongs to sequence b and the longest sequence comes
first. B equal sequences are the case ``batch_sizes = [B] * T``: their data is the (T, B, I) array seen as (T * B, I).

Direction 0 reads the steps 0 ... T-1; direction 1 (``reverse``) starts each sequence at its own last step and
ends at 0. Row n of the output holds both directions side by side: ``output[n] = [h_forward, h_reverse]``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from ..arrays.activations import ACTIVATIONS, PLAIN, Activations

API_VERSION = 1

#: What forward keeps for backward. ``"states"`` keeps h and c alone, and backward computes the gates again.
Keep = Literal["nothing", "states", "gates"]


class DirectionParameters(NamedTuple):
    """The parameters of one direction of one layer (or their gradients, in the same shapes).

    The rows of the four gates follow one another in PyTorch's order i, f, g, o.
    """

    weight_ih: Any  # (4H, I); in precision "int8" it may be an `arrays.quantization.QuantizedWeight`
    weight_hh: Any  # (4H, R); so may it
    bias_ih: Any = None  # (4H,), or None without bias
    bias_hh: Any = None  # (4H,), or None without bias
    weight_hr: Any = None  # (P, H), or None without projection
    weight_ch: Any = None  # (3H,), of the gates i, f, o; None without peepholes


#: The parameters of one layer: one entry per direction, forward first. Length D.
LayerParameters = tuple[DirectionParameters, ...]


class LayerOptions(NamedTuple):
    """What a layer computes beyond PyTorch's LSTM. The defaults are PyTorch's.

    The limits are positive: a limit l bounds each element to [-l, l].
    """

    activations: tuple[Activations, ...] = (PLAIN,)  # of each direction: f of the gates, g of the candidate, h of c
    peephole: bool = False  # the gates see the cell state, through weight_ch
    input_forget: bool = False  # coupled gates: f = 1 - i, and the rows of f in the parameters are not read
    clip: float | None = None  # of the sums that go into the activations of the gates
    cell_clip: float | None = None  # of c after each step
    proj_clip: float | None = None  # of h after the projection

    def named(self) -> dict[str, Any]:
        """The options that are not the defaults, by name."""
        named = {name: value for name, value in self._asdict().items() if value not in (None, False)}
        if all(one == PLAIN for one in self.activations):
            del named["activations"]
        return named

    def needs(self) -> frozenset[str]:
        """What a backend's ``capabilities.options`` must have: names of options.

        Of the activations, the names of those that are not at PyTorch's place; ``"activations"`` has them all.
        """
        named = self.named()
        others = {
            one.name
            for direction in named.pop("activations", ())
            for one, plain in zip(direction, PLAIN, strict=True)
            if one != plain
        }
        return frozenset(others | set(named))


class LayerOutput(NamedTuple):
    """What :meth:`Backend.forward` returns."""

    output: Any  # (N, D * R)
    h_n: Any  # (D, B, R), the state after the last step that each sequence took in this direction
    c_n: Any  # (D, B, H)
    workspace: Any  # what backward needs; None where keep is "nothing"


class LayerGradients(NamedTuple):
    """What :meth:`Backend.backward` returns."""

    input: Any  # (N, I)
    h_0: Any  # (D, B, R)
    c_0: Any  # (D, B, H)
    parameters: LayerParameters  # gradients in the shapes of the parameters


class Capabilities(NamedTuple):
    """What a backend can do. The automatic choice goes by it; an explicit choice is checked against it."""

    dtypes: frozenset[str]  # names of NumPy dtypes, such as {"float32", "float64"}
    training: bool = False  # backward is there
    projection: bool = True  # proj_size > 0 is computed
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("float32",)  # of float32 parameters, see `Backend.prepare`
    #: Those of `LayerOptions` that are computed, by name. ``"activations"`` means all of them in all places; the name
    #: of an activation, such as ``"relu"``, means this one in all places.
    options: frozenset[str] = frozenset()
    #: Those of them that are computed with gradients; None: all.
    training_options: frozenset[str] | None = None

    def options_of(self, training: bool) -> frozenset[str]:
        """The options that are computed, with gradients or without."""
        return self.options if self.training_options is None or not training else self.training_options


def lacking(options: frozenset[str], needs: frozenset[str]) -> list[str]:
    """Which of `LayerOptions.needs` are not among the ``options`` of a backend's capabilities."""
    all_activations = "activations" in options
    return sorted(need for need in needs - options if not (all_activations and need in ACTIVATIONS))


def lacking_in_words(capabilities: Capabilities, needs: frozenset[str], training: bool) -> list[str]:
    """Likewise of a backend, in words: those that it does not compute, and those that it computes without gradients."""
    missing = lacking(capabilities.options, needs)
    words = []
    for need in lacking(capabilities.options_of(training), needs):
        kind = "activation" if need in ACTIVATIONS else "option"
        words.append(f"{'gradients with ' * (need not in missing)}the {kind} {need}")
    return words


class Stepper(Protocol):
    """What :meth:`Backend.stepper` returns. Its state begins as zeros. One thread at a time uses it."""

    serial: bool  # a step uses one thread, whatever `threads` says

    def step(self, x_t: Any, out: Any, threads: int) -> np.ndarray | None:
        """Take one step: x_t (B, I) -> out (B, R) of the last layer. With B = 1 both may lack the axis B.

        Where out is None, a new array is made. The arguments are not checked before the call. A step is taken where
        both are a plain numpy.ndarray, aligned, C-contiguous, of these shapes and of the layers' dtype, and out is
        writable. Otherwise no step is taken, and the result is None.
        """

    def get_state(self, h: np.ndarray, c: np.ndarray) -> None:
        """Write the state of all L layers to h (L, B, R) and c (L, B, H)."""

    def set_state(self, h: np.ndarray, c: np.ndarray) -> None:
        """Set the state of all L layers from h (L, B, R) and c (L, B, H)."""


class DeviceStepper(Stepper, Protocol):
    """The stepper of a backend that computes on a GPU: its arrays may be NumPy's or those of the GPU's library.

    In a step, `out` and the result lie where x_t does. In the other methods h and c lie on one side.
    """

    def state(self, on_gpu: bool | None = None) -> tuple[Any, Any]:
        """h (L, B, R) and c (L, B, H) of all layers, as copies.

        By default they lie where the last frame lay, or the state that was set after it.
        """


class Backend:
    """Base class of all backends: subclass it, set the class attributes, write the methods.

    A backend is made once per process, without arguments, when its name is first needed, and may be called from
    several threads at once. Arguments that follow ``*`` are passed by name. Arrays that come in are C-contiguous, of
    one dtype out of ``capabilities.dtypes``, and possibly read-only; a backend never writes to them. Arrays that go out
    are new, C-contiguous and of the same dtype. They belong to the caller: the workspace shares no memory with them.
    """

    api_version: ClassVar[int] = API_VERSION
    name: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities]

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        """Whether the backend can run here, and if not, why and what to do. Never raises."""
        return True, ""

    def on(self, device: str) -> Backend:
        """The backend that computes on a device of ``capabilities.devices`` other than the CPU, such as ``"cuda:1"``.

        The default, the same object, serves a backend that computes on one device alone.
        """
        return self

    def prepare(self, layer_parameters: LayerParameters, *, precision: str = "float32") -> Any:
        """Turn the parameters of one layer into the form that the kernels read.

        It is called once per version of the parameters. The result must not depend on later changes of the arrays:
        copy or pack them.

        `precision` is passed only where it is another than ``"float32"``, and is one of ``capabilities.precisions``
        then: how the parameters, which are float32, are rounded and multiplied. The numpy backend is the definition.
        Arrays stay float32, and ``keep`` is ``"nothing"``: there are no gradients. Options may come with a precision.
        Where the layer computes more than PyTorch's LSTM, the argument ``options``, `LayerOptions`, is passed by name.
        A backend without ``capabilities.options`` is never given it, and need not have it.
        """
        raise NotImplementedError(f"backend {self.name!r} does not implement prepare")

    def forward(
        self,
        prepared: Any,
        *,
        input: np.ndarray,  # (N, I)
        batch_sizes: np.ndarray,  # (T,) int64, T >= 1, non-increasing; all 0 where B = 0
        h_0: np.ndarray | None,  # (D, B, R); None means zeros
        c_0: np.ndarray | None,  # (D, B, H); None means zeros
        keep: Keep = "nothing",
    ) -> LayerOutput:
        """Run one layer. ``workspace`` may hold references to ``input``: the caller leaves it unchanged."""
        raise NotImplementedError(f"backend {self.name!r} does not implement forward")

    def stepper(self, layers: tuple[Any, ...], *, batch_size: int) -> Stepper | None:
        """A faster way to take single steps through a stack of prepared layers of one direction.

        The default, None, says that there is none: `cylstm.LSTM.stream` then calls ``forward`` for each step. A backend
        that takes arrays on a GPU gives a `DeviceStepper`.
        """
        return None

    def uploaded(self, prepared: Any) -> LayerParameters | None:
        """The parameters of a prepared layer where they lie on a GPU, so that an optimiser need not copy them there.

        Nobody changes these arrays. The default, None, says that there are none.
        """
        return None

    def backward(
        self,
        prepared: Any,
        workspace: Any,
        *,
        grad_output: np.ndarray | None,  # (N, D * R); None means zeros
        grad_h_n: np.ndarray | None,  # (D, B, R); None means zeros
        grad_c_n: np.ndarray | None,  # (D, B, H); None means zeros
    ) -> LayerGradients:
        """The gradients of one layer. It may be called more than once with the same workspace.

        Complex gradients follow PyTorch's convention: the conjugate of the Wirtinger derivative, so that a step
        against the gradient descends.
        """
        raise NotImplementedError(f"backend {self.name!r} cannot compute gradients")
