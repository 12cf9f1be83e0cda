"""The LSTM: arguments, parameters, dropout; its `Stack` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from ..arrays.arguments import check_lstm_arguments
from ..arrays.homes import at_home
from ..backends.base import Backend, Keep, LayerParameters
from ..random import dropout_mask, uniform
from ..random.beside import dropout_mask_beside
from .dispatch import ComputedModule
from .frozen import as_parameters
from .gradients import Gradients
from .options import NAMES, checked_options
from .raw_arrays import parameters_from
from .stack import Stack, State
from .stream import Stream


class LSTM(ComputedModule):
    """A multi-layer long short-term memory network with the arguments, shapes, names and numbers of ``torch.nn.LSTM``.

    Parameters
    ----------
    input_size : int
        Number of features I of an input row.
    hidden_size : int
        Number of features H of the state.
    num_layers : int
        Number of stacked layers L.
    bias : bool
        Whether there are bias_ih and bias_hh.
    batch_first : bool
        Whether 3-D input and output are (B, T, features) instead of (T, B, features). States are not concerned.
    dropout : float
        Probability of a zero in the output of each layer but the last, in training mode.
    bidirectional : bool
        Whether a second direction reads each sequence from its end; D is 2 then.
    proj_size : int
        Size P of the projected output; 0 for none. R = P or H is the size of output and h.
    device : None, str or torch.device
        Where it is computed: the CPU, or ``"cuda"``, ``"cuda:1"``. The parameters are NumPy arrays in any case.
    dtype : dtype, optional
        float16, bfloat16 (with ml_dtypes), float32 (default), float64, complex64 or complex128: NumPy or PyTorch dtype,
        name or type.
    backend : str or Backend, optional
        The backend; None for the selection in force at each call, see `cylstm.set_backend`.
    precision : {"float32", "bfloat16", "int8"}, optional
        How float32 parameters are prepared and computed, see the attribute; None for ``CYLSTM_PRECISION``, else
        ``"float32"``.
    peephole : bool
        Whether the gates i and f see c before the step and o sees c after it, through ``weight_ch`` (3H,).
    clip : float, optional
        The limit of the sums that go into the activations of the gates, as in ONNX.
    activations : tuple, optional
        (f, g, h): of the gates i, f, o; of the candidate g; of c on its way to the output. Each is a name of
        `cylstm.arrays.activations.ACTIVATIONS`, or a name and its parameters: ``("leaky_relu", 0.2)``. Six for
        two directions that differ. None is PyTorch's ("sigmoid", "tanh", "tanh").
    input_forget : bool
        Whether the gates are coupled: f = 1 - i. The rows of f in the parameters are not read then.
    cell_clip : float, optional
        The limit of c after each step, as in TensorFlow's and ELMo's LSTMs.
    proj_clip : float, optional
        The limit of h after the projection, likewise.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As ``torch.nn.LSTM`` does for the same arguments.

    Examples
    --------
    >>> import cylstm
    >>> lstm = cylstm.LSTM(input_size=10, hidden_size=20)
    >>> output, (h_n, c_n) = lstm(cylstm.randn(7, 2, 10))
    >>> output.shape, h_n.shape, c_n.shape
    ((7, 2, 20), (1, 2, 20), (1, 2, 20))
    """

    _fixed: ClassVar[frozenset[str]] = frozenset(
        {"input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size", *NAMES}
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str | Backend | None = None,
        precision: str | None = None,
        peephole: bool = False,
        clip: float | None = None,
        activations: Any = None,
        input_forget: bool = False,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
    ) -> None:
        check_lstm_arguments(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            proj_size=proj_size,
        )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.backend = backend
        self._options = checked_options(
            directions=2 if bidirectional else 1,
            projection=proj_size > 0,
            peephole=peephole,
            clip=clip,
            activations=activations,
            input_forget=input_forget,
            cell_clip=cell_clip,
            proj_clip=proj_clip,
        )
        self._stack = self._made_stack()
        device, dtype = self._checked_place(device, dtype, precision)
        super().__init__(device=device, dtype=dtype, precision=precision)

    @classmethod
    def from_arrays(
        cls,
        weight_ih: Any,
        weight_hh: Any = None,
        bias_ih: Any = None,
        bias_hh: Any = None,
        weight_hr: Any = None,
        weight_ch: Any = None,
        *,
        gate_order: str = "ifgo",
        forget_bias: float = 0.0,
        **options: Any,
    ) -> LSTM:
        """An LSTM of arrays as another system lays them out: either axis first, any order of gates, one bias or two.

        Parameters
        ----------
        weight_ih : array or list of arrays
            (4H, I) or (I, 4H); a list has one for each direction of each layer, in the order of `all_weights`. Lists of
            numbers, as JSON has them, are arrays of float32. Without `weight_hh` it is the joined kernel, (I + H, 4H)
            or (4H, I + H), input first.
        weight_hh : array or list of arrays, optional
            (4H, H) or (H, 4H); with a projection R instead of H.
        bias_ih : array or list of arrays, optional
            (4H,), also with an axis of 1; or both biases in one, (8H,) or (2, 4H).
        bias_hh : array or list of arrays, optional
            (4H,). Zeros where `bias_ih` is there alone.
        weight_hr : array or list of arrays, optional
            The projection, (R, H) or (H, R).
        weight_ch : array or list of arrays, optional
            Peepholes (3H,), of the gates i, f, o in the order that they have in `gate_order`.
        gate_order : str
            The order of the blocks of H gates: i, f, o and the candidate, g (also called c or j). PyTorch ``"ifgo"``,
            Keras ``"ifco"``, ONNX ``"iofc"``, TensorFlow's cells ``"ijfo"`` ([i, j, f, o]), Core ML ``"ifog"``.
        forget_bias : float
            What the other system adds to the forget gate when it runs, and the arrays do not hold: 1.0 in TensorFlow's
            BasicLSTMCell.
        **options
            Of the constructor, but for what the arrays tell (sizes, ``bias``, ``peephole``): ``bidirectional``,
            ``batch_first``, ``dropout``, ``activations``, ``backend`` … The dtype is that of the arrays by default.

        Raises
        ------
        TypeError, ValueError
            If the arrays do not fit each other, or it is not clear which axis is which.

        Examples
        --------
        >>> import numpy as np
        >>> import cylstm
        >>> kernel, bias = np.zeros((10 + 20, 80), np.float32), np.zeros(80, np.float32)
        >>> cylstm.LSTM.from_arrays(kernel, bias_ih=bias, gate_order="ijfo", forget_bias=1.0)
        LSTM(10, 20)
        """
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch")
        arrays = dict(zip(names, (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, weight_ch), strict=True))
        parameters, options = parameters_from(arrays, gate_order, forget_bias, options)
        return cls._of(parameters, **options)

    def _made_stack(self) -> Stack:
        sizes = (self.input_size, self.hidden_size, self.num_layers, self.bias, self.bidirectional, self.proj_size)
        return Stack(*sizes, self._options.peephole)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_stack"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stack = self._made_stack()

    def _initial_parameters(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        bound = 1.0 / self.hidden_size**0.5
        return {name: uniform(shape, -bound, bound, dtype) for name, shape in self._stack.shapes().items()}

    def extra_repr(self) -> str:
        """What stands between the parentheses of the ``repr``."""
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        for name, default in {"proj_size": 0, **defaults}.items():
            value = getattr(self, name)
            if value != default or (isinstance(default, bool) and value is not default):
                text += f", {name}={value}"
        return text + self._repr_of_options()

    @property
    def all_weights(self) -> list[list[np.ndarray]]:
        """The parameters, one list per layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _all_weights(self) -> list[list[str]]:  # PyTorch's attribute
        return self._stack.names

    def flatten_parameters(self) -> None:
        """Do nothing: there for code written for PyTorch."""

    # The forward pass -----------------------------------------------------------------------------------------------

    def __call__(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Any, State]:
        """Run the LSTM over whole sequences. Nothing is kept.

        Parameters
        ----------
        input : array or PackedSequence
            (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched; of the module's dtype. Anything with
            ``__array__`` or ``__dlpack__`` on the CPU is taken.
        hx : tuple of two arrays, optional
            h_0 (L * D, B, R) and c_0 (L * D, B, H), without B for unbatched input. Zeros by default.

        Returns
        -------
        output : numpy.ndarray or PackedSequence
            (T, B, D * R), or as the input lies.
        (h_n, c_n) : tuple of numpy.ndarray
            In the shapes of h_0 and c_0.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As ``torch.nn.LSTM`` does for the same mistake.
        """
        if type(input) is np.ndarray:
            return self._run(input, hx)
        return self._run_at_home(input, hx)

    def _run(self, input: Any, hx: tuple[Any, Any] | None) -> tuple[Any, State]:
        choice, stack = self._choice(self._store.snapshot, training=False), self._stack
        layout, rows, h_0, c_0 = stack.enter(input, hx, self.batch_first, choice.dtype, choice.cuda)
        masks = self._masks(rows)
        output, h_n, c_n, _ = stack.forward(choice, layout.batch_sizes, rows, h_0, c_0, "nothing", masks)
        return layout.from_rows(output), (layout.from_state(h_n), layout.from_state(c_n))

    _run_at_home = at_home(_run)
    forward = __call__

    @at_home
    def vjp(
        self, input: Any, hx: tuple[Any, Any] | None = None, *, recompute: bool = False
    ) -> tuple[Any, State, Callable[..., Gradients]]:
        """Run the LSTM and return, beside the result, the function that pulls gradients back through this run.

        Parameters
        ----------
        input, hx
            As for a call.
        recompute : bool
            Keep h and c alone and compute the gates again in the backward pass: less memory, the same bits.

        Returns
        -------
        output, (h_n, c_n)
            As for a call.
        pullback : callable
            ``pullback(grad_output=None, grad_hx=None)`` takes the gradients of output and of (h_n, c_n), in their
            shapes, None for zeros, and returns `Gradients`: ``input``, ``hx`` and ``parameters`` by name. It may be
            called more than once. All that it needs lives in it alone: none of it is shared with arrays that the
            caller can write to.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As a call does. The pullback raises RuntimeError where the parameters have been changed since.
        """
        snapshot, stack = self._store.snapshot, self._stack
        choice = self._choice(snapshot, training=True)
        layout, rows, h_0, c_0 = stack.enter(input, hx, self.batch_first, choice.dtype, choice.cuda)
        rows, h_0, c_0 = rows.copy(), _copied(h_0), _copied(c_0)
        on_gpu = not isinstance(rows, np.ndarray)
        keep: Keep = "states" if recompute else "gates"
        masks = self._masks(rows)
        output, h_n, c_n, kept = stack.forward(choice, layout.batch_sizes.copy(), rows, h_0, c_0, keep, masks)

        def pullback(grad_output: Any = None, grad_hx: tuple[Any, Any] | None = None) -> Gradients:
            self._store.refuse_after_change(snapshot)
            grads = stack.enter_gradients(layout, grad_output, grad_hx, choice.dtype, on_gpu)
            return stack.backward(choice, layout, kept, *grads)

        return layout.from_rows(output), (layout.from_state(h_n), layout.from_state(c_n)), pullback

    def stream(self, batch_size: int = 1, *, hx: tuple[Any, Any] | None = None) -> Stream:
        """One time step at a time, with all buffers made beforehand, from the state `hx` on; see `Stream`."""
        return Stream(self, batch_size, hx=hx)

    def _layers(self, arrays: dict[str, np.ndarray]) -> list[LayerParameters]:
        return self._stack.layers(as_parameters(arrays))

    def _masks(self, rows: np.ndarray) -> Iterable[np.ndarray]:
        """Those of the dropout on the inputs of the layers from the second on, drawn as they are needed."""
        if not (self.dropout > 0 and self.training):
            return ()
        shape = (len(rows), self._stack.directions * self._stack.output_size)
        if isinstance(rows, np.ndarray):
            return (dropout_mask(shape, self.dropout, rows.dtype) for _ in range(1, self.num_layers))
        return (dropout_mask_beside(rows, shape, self.dropout) for _ in range(1, self.num_layers))


def _copied(states: np.ndarray | None) -> np.ndarray | None:
    return None if states is None else states.copy()
