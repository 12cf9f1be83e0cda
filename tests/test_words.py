"""The words of messages: articles, plurals, and what would steer a terminal."""

from __future__ import annotations

import pytest

from cylstm.words import counted, error_text, listed, named, needs, printable, quoted, with_article


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
    assert needs("ONNX files", "onnx") == "ONNX files need the package onnx: pip install 'onnx>=1.21'"
    assert needs("peers", "torch").endswith("pip install torch")


def test_what_others_wrote_is_cut() -> None:
    assert named("a\nb") == r"a\nb"
    assert named("n" * 280) == "n" * 280
    assert named("b" * 1_000_000 + "e" * 100) == f"{'b' * 200} … {'e' * 80}"
    assert quoted("a\x1b'") == '"a\\x1b\'"'
    assert quoted(["n" * 1000]) == f"['{'n' * 198} … {'n' * 78}']"
    assert listed(map(str, range(30)), 3) == "0, 1, 2 and 27 more"


def test_errors_of_others_are_one_line() -> None:
    assert error_text(KeyError("a\n")) == r"KeyError: 'a\n'"
    assert error_text(OSError("one\n  two\x1b")) == r"OSError: one two\x1b"
    assert len(error_text(ValueError("n" * 1_000_000))) < 300
