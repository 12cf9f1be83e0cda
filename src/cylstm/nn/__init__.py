"""The modules: parameters, dispatch to a backend, LSTM, LSTMCell, Linear, streams, gradients."""
