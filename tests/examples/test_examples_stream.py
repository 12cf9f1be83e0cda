"""The streaming example does what it says. How long its steps take is reported there, and not asserted here."""

from __future__ import annotations

import re
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

import cylstm

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def test_the_tones_are_those_of_a_telephone() -> None:
    from stream_keypad import KEYS, RATE, tones

    expected = dict(
        zip("147*2580369#", [(a, b) for b in (1209, 1336, 1477) for a in (697, 770, 852, 941)], strict=True)
    )
    for key in KEYS:
        strength = np.abs(np.fft.rfft(tones(key, RATE)))  # a bin for each Hz
        assert tuple(sorted(np.argsort(strength)[-2:].tolist())) == expected[key]


def test_recording_and_file(tmp_path: Path) -> None:
    from stream_keypad import DIALLED, FRAME, KEYS, NOTHING, decode, record, write_wav

    samples, classes = record(DIALLED, np.random.default_rng(0))
    assert samples.dtype == np.int16
    assert samples.shape == (len(classes) * FRAME,)
    assert abs(samples.astype(int)).max() < 32767  # not clipped
    assert "".join(key for key, _ in decode(classes)) == DIALLED
    for key, t in decode(classes):
        assert classes[t] == KEYS.index(key) != classes[t - 3] == NOTHING
    write_wav(samples, tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(file.getnframes()), "<i2"), samples)


@pytest.mark.parametrize(
    ("classes", "read"),
    [
        ("...111...", [("1", 5)]),
        ("...11....", []),  # too short
        ("...111.1111...111", [("1", 5), ("1", 16)]),  # a gap of one frame is none
        ("222333", [("2", 2), ("3", 5)]),
        ("", []),
    ],
)
def test_decode(classes: str, read: list[tuple[str, int]]) -> None:
    from stream_keypad import KEYS, NOTHING, decode

    assert decode(np.array([NOTHING if c == "." else KEYS.index(c) for c in classes], int)) == read


def test_listening_waits_for_the_sound(tmp_path: Path, backend: str) -> None:
    from stream_keypad import KEYS, RATE, Reader, listen, recordings, write_wav

    with cylstm.use_backend(backend):
        reader = Reader(cylstm.LSTM(36, 8), cylstm.Linear(8, len(KEYS) + 1))
        samples = np.random.default_rng(0).integers(-9999, 9999, RATE // 4).astype(np.int16)
        write_wav(samples, tmp_path / "a.wav")
        begin = time.perf_counter()
        heard = listen(reader, tmp_path / "a.wav", period=0.004)
        assert time.perf_counter() - begin >= 25 * 0.004
    assert [len(array) for array in heard] == [25] * 5
    assert (heard.step > 0).all()
    assert (heard.response >= heard.step).all()
    data = recordings(2, np.random.default_rng(0), frames=50)
    assert (data.inputs.shape, data.classes.shape) == ((50, 2, 36), (50, 2))


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import stream_keypad

    monkeypatch.setattr(sys, "argv", ["stream_keypad.py", "--fast", "--output", str(tmp_path)])
    assert stream_keypad.main() == 0
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^(\S+(?: \S+)*)  +(.+)$", printed, re.MULTILINE))
    assert rows["read"] == rows["dialled"] == stream_keypad.DIALLED
    bits = [value for name, value in rows.items() if name.startswith("stream and")]
    assert len(bits) == 2
    if cylstm.get_backend() == "cython":
        assert bits == ["same bits", "same bits"]
    assert int(rows["other recordings"].split()[0]) >= 80
    missed, of = re.search(r"missed deadlines: (\d+) of (\d+)", printed).groups()
    assert int(missed) <= int(of)
    histogram = re.findall(r"µs +(\d+)  #*$", printed, re.MULTILINE)
    assert sum(map(int, histogram)) == int(of)
    assert (tmp_path / "keypad.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_fails_where_the_keys_are_read_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stream_keypad

    few = stream_keypad.recordings
    monkeypatch.setattr(stream_keypad, "recordings", lambda number, rng: few(24, rng, frames=40))
    monkeypatch.setattr(sys, "argv", ["stream_keypad.py", "--fast", "--steps", "1", "--output", str(tmp_path)])
    assert stream_keypad.main() == 1
