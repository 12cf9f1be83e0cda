"""Four published tutorials on PyTorch's LSTM: what they print and the rules they state, with no torch imported.

``published_numbers`` holds the numbers; here are the rules. Each class is named after a document.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import available
import numpy as np
import published_numbers
import pytest

import cylstm

SMOKE_WHEEL = Path(__file__).parents[1] / "package" / "smoke_wheel.py"
each_backend = pytest.mark.parametrize("backend", available.choices())


def parts(title):
    """The parts of a document, each on every backend that has its dtype, and on the one in force."""
    cases = [
        pytest.param(part, backend, id=f"{part.__name__}-{backend or 'in force'}")
        for part, dtype in published_numbers.DOCUMENTS[title].items()
        for backend in available.choices(dtype)
    ]
    return pytest.mark.parametrize(("part", "backend"), cases)


def check(part, backend):
    for row in part(backend):
        assert row.holds(), f"{row.what}: printed {row.printed}, got {row.got!r}"


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class Test_demystifying_nn_lstm:
    """Bulk mode and loop mode. All its numbers come out, those of the cells that were run out of order too."""

    @parts("demystifying_nn_lstm")
    def test_printed(self, part, backend):
        check(part, backend)

    @each_backend
    def test_without_states_they_are_zeros(self, backend):
        lstm = cylstm.LSTM(3, 5, batch_first=True, backend=backend)
        x, zeros = cylstm.randn(7, 1, 3), np.zeros((1, 7, 5), np.float32)
        for a, b in zip(flat(lstm(x)), flat(lstm(x, (zeros, zeros))), strict=True):
            np.testing.assert_array_equal(a, b)

    @each_backend
    def test_bulk_and_loop_are_the_same_from_the_same_state(self, backend):
        """Type 1 and type 2 are the same, the document says, from the same initial state: to the bit."""
        lstm = cylstm.LSTM(3, 5, backend=backend)
        x, state = cylstm.randn(7, 1, 3), (cylstm.randn(1, 1, 5), cylstm.randn(1, 1, 5))
        bulk, bulk_state = lstm(x, state)
        tolerance = 1e-5 if backend is None and available.on_gpu() else 0  # the cupy backend does not promise the bits
        for t in range(7):
            out, state = lstm(x[t : t + 1], state)
            np.testing.assert_allclose(out[0], bulk[t], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(state, bulk_state, rtol=tolerance, atol=tolerance)

    @each_backend
    def test_output_is_the_hidden_state_of_the_last_layer(self, backend):
        """ "Last" depth-wise, not time-wise; h_n can go on into another call."""
        lstm = cylstm.LSTM(3, 5, num_layers=2, backend=backend)
        x = cylstm.randn(7, 2, 3)
        whole, (h_n, _) = lstm(x)
        first, state = lstm(x[:4])
        second, _ = lstm(x[4:], state)
        np.testing.assert_array_equal(whole[-1], h_n[-1])
        np.testing.assert_array_equal(whole, np.concatenate([first, second]))


class Test_lstm_for_programmers:
    """The shapes of simple, bidirectional and stacked LSTMs. (Those of its TensorFlow lines: see the Keras tests.)"""

    @parts("lstm_for_programmers")
    def test_printed(self, part, backend):
        check(part, backend)

    @each_backend
    def test_sequence_length_may_vary_from_batch_to_batch(self, backend):
        lstm = cylstm.LSTM(10, 7, backend=backend)
        for seq_len in (17, 1, 5):
            assert lstm(cylstm.randn(seq_len, 2, 10))[0].shape == (seq_len, 2, 7)


class Test_how_does_a_pytorch_lstm_model_work:
    """The gates as formulas, and three examples."""

    @parts("how_does_a_pytorch_lstm_model_work")
    def test_printed(self, part, backend):
        check(part, backend)

    @each_backend
    def test_formulas(self, backend):
        """f = σ(W_f [h, x] + b_f), i, Ĉ and o alike; C = f C + i Ĉ; h = o tanh(C)."""
        cylstm.manual_seed(0)
        lstm = cylstm.LSTM(10, 20, backend=backend)
        x = cylstm.randn(15, 10)
        weights = np.concatenate([lstm.weight_hh_l0, lstm.weight_ih_l0], axis=1)
        W_i, W_f, W_c, W_o = np.split(weights.astype(np.float64), 4)
        b_i, b_f, b_c, b_o = np.split(lstm.bias_ih_l0.astype(np.float64) + lstm.bias_hh_l0, 4)
        h, C, expected = np.zeros(20), np.zeros(20), []
        for x_t in x:
            h_x = np.concatenate([h, x_t])
            f = sigmoid(W_f @ h_x + b_f)
            i = sigmoid(W_i @ h_x + b_i)
            candidate = np.tanh(W_c @ h_x + b_c)
            C = f * C + i * candidate
            o = sigmoid(W_o @ h_x + b_o)
            h = o * np.tanh(C)
            assert np.all((f > 0) & (f < 1))
            expected.append(h)
        output, (h_n, c_n) = lstm(x)
        np.testing.assert_allclose(output, expected, atol=2e-6)
        np.testing.assert_allclose(h_n[0], h, atol=2e-6)
        np.testing.assert_allclose(c_n[0], C, atol=4e-6)

    @each_backend
    def test_each_layer_reads_the_output_of_the_layer_below(self, backend):
        stacked = cylstm.LSTM(10, 20, num_layers=2, backend=backend)
        layers = [cylstm.LSTM(10, 20, backend=backend), cylstm.LSTM(20, 20, backend=backend)]
        for number, layer in enumerate(layers):
            suffix = f"_l{number}"
            layer.load_state_dict(
                {name.replace(suffix, "_l0"): a for name, a in stacked.state_dict().items() if name.endswith(suffix)}
            )
        x = cylstm.randn(15, 1, 10)
        below, (h_below, _) = layers[0](x)
        above, (h_above, _) = layers[1](below)
        output, (h_n, _) = stacked(x)
        np.testing.assert_array_equal(output, above)
        np.testing.assert_array_equal(h_n, np.concatenate([h_below, h_above]))


class Test_lstm_in_pytorch:
    """A walk through the arguments. Three of its lines are about what is not here: ``requires_grad`` (gradients come
    from ``lstm.vjp``), ``grad_fn``, and ``Parameter containing``; a parameter is a NumPy array that is locked.
    """

    @parts("lstm_in_pytorch")
    def test_printed(self, part, backend):
        check(part, backend)

    def test_input_size(self):
        """ "It must be 0 <= x", the document says; PyTorch 2.13 refuses 0, and so does cylstm."""
        for input_size in (0, -1):
            with pytest.raises(ValueError, match="greater than zero"):
                cylstm.LSTM(input_size, 3)
        assert cylstm.LSTM(1, 3).input_size == 1

    @pytest.mark.parametrize("name", ["hidden_size", "num_layers"])
    def test_sizes_are_at_least_1(self, name):
        sizes = {"input_size": 6, "hidden_size": 3}
        assert getattr(cylstm.LSTM(**{**sizes, name: 1}), name) == 1
        with pytest.raises(ValueError, match="greater than zero"):
            cylstm.LSTM(**{**sizes, name: 0})

    def test_dropout_is_a_probability_and_needs_a_second_layer(self):
        for dropout in (0, 0.5, 1):
            assert cylstm.LSTM(6, 3, 2, dropout=dropout).dropout == dropout
        for dropout in (-0.1, 1.1):
            with pytest.raises(ValueError, match=r"range \[0, 1\]"):
                cylstm.LSTM(6, 3, 2, dropout=dropout)
        with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
            cylstm.LSTM(6, 3, dropout=0.5)

    def test_proj_size_is_below_hidden_size(self):
        assert cylstm.LSTM(6, 3, proj_size=2).proj_size == 2
        for proj_size in (3, -1):
            with pytest.raises(ValueError, match="proj_size"):
                cylstm.LSTM(6, 3, proj_size=proj_size)

    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_parameters_per_layer_and_direction(self, bidirectional):
        names = cylstm.LSTM(6, 3, num_layers=3, bidirectional=bidirectional).state_dict()
        suffixes = [f"_l{layer}{way}" for layer in range(3) for way in (["", "_reverse"] if bidirectional else [""])]
        fields = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        assert list(names) == [field + suffix for suffix in suffixes for field in fields]

    def test_arguments_in_their_order(self):
        lstm = cylstm.LSTM(6, 3, 2, False, True, 0.5, True, 2, None, "float64")
        assert repr(lstm) == (
            "LSTM(6, 3, proj_size=2, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True)"
        )
        assert lstm.weight_ih_l0.dtype == np.float64

    @each_backend
    def test_the_deepest_dimension_is_input_size(self, backend):
        lstm = cylstm.LSTM(6, 3, backend=backend)
        with pytest.raises(RuntimeError, match="expected 6, got 5"):
            lstm(cylstm.randn(2, 5))

    @each_backend
    def test_input_is_2d_or_3d(self, backend):
        lstm = cylstm.LSTM(6, 3, backend=backend)
        for shape in [(2, 6), (2, 1, 6)]:
            assert lstm(cylstm.randn(shape))[0].shape == (*shape[:-1], 3)
        for shape in [(6,), (1, 1, 1, 6)]:
            with pytest.raises(ValueError, match="2-D"):
                lstm(cylstm.randn(shape))

    @each_backend
    def test_zero_elements(self, backend):
        """ "Zero or more elements": an empty batch is fine; no step at all PyTorch 2.13 refuses, and so does cylstm."""
        lstm = cylstm.LSTM(6, 3, backend=backend)
        output, (h_n, c_n) = lstm(cylstm.randn(4, 0, 6))
        assert (output.shape, h_n.shape, c_n.shape) == ((4, 0, 3), (1, 0, 3), (1, 0, 3))
        with pytest.raises(RuntimeError, match="at least one time step"):
            lstm(cylstm.randn(0, 6))

    @each_backend
    def test_the_dtype_of_the_input_is_that_of_the_lstm(self, backend):
        lstm = cylstm.LSTM(6, 3, backend=backend)
        for dtype in ("float64", "complex64"):
            with pytest.raises((ValueError, RuntimeError), match="does not match weight dtype"):
                lstm(cylstm.randn(2, 6, dtype=dtype))

    @each_backend
    def test_a_tuple_is_no_input(self, backend):
        lstm = cylstm.LSTM(3, 3, backend=backend)
        _, state = lstm(cylstm.randn(2, 3))
        with pytest.raises(TypeError, match="input must be an array"):
            lstm(input=state)

    def test_device_is_no_attribute(self):
        with pytest.raises(AttributeError, match="device"):
            cylstm.LSTM(6, 3).device  # noqa: B018


@pytest.mark.parametrize(
    ("got", "printed", "holds"),
    [
        (np.float32([0.12344, 0.12346]), [0.1234, 0.1235], True),
        (np.float32([0.1234, 0.1235]), [0.1234, 0.1234], False),
        (np.float32([[0.1]]), [0.1], False),
        ((1, 2), (1, 2), True),
        ((1, 3), (1, 2), False),
        (0, False, False),
    ],
)
def test_comparison_with_what_is_printed(got, printed, holds):
    assert published_numbers.Printed("", got, printed).holds() is holds


def flat(result):
    output, (h_n, c_n) = result
    return output, h_n, c_n


def test_the_script_for_wheels_runs_without_torch():
    """``smoke_wheel.py`` checks an installed wheel; here it runs on the package that these tests import."""
    source = str(Path(cylstm.__file__).parents[1])
    script = str(SMOKE_WHEEL)
    code = f"import sys, runpy; sys.path.insert(0, {source!r}); runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for title in published_numbers.DOCUMENTS:
        assert f"{title}: " in done.stdout
