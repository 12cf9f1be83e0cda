"""The words of messages: articles, plurals, and what would steer a terminal."""

from __future__ import annotations

import pytest

from cylstm.words import counted, needs, printable, with_article


@pytest.mark.parametrize(
    "text",
    [
        *("an LSTM", "an LSTMCell", "an RNN", "a GRU", "a GRUCell", "a Linear", "an Embedding", "a Dense", "an int"),
        *("a Sequential", "a Functional", "a ConvLSTM2D", "a str", "a unit", "a NoneType", "an InputLayer", "a TCN"),
    ],
)
def test_articles(text: str) -> None:
    assert with_article(text.partition(" ")[2]) == text


def test_plurals() -> None:
    assert [counted(n, "step") for n in (0, 1, 2, 1234)] == ["0 steps", "1 step", "2 steps", "1,234 steps"]


def test_what_steers_a_terminal_is_escaped() -> None:
    assert printable("a\x1b[31mb\r\n\tc\u202e\x9b \x7f") == r"a\x1b[31mb\r\n\tc\u202e\x9b \x7f"
    assert printable("Größe 漢字 █ – µs") == "Größe 漢字 █ – µs"


def test_install_lines() -> None:
    assert needs("ONNX files", "onnx") == "ONNX files need the package onnx: pip install 'onnx>=1.17'"
    assert needs("peers", "torch").endswith("pip install torch")
