"""Read dialled keys out of a noisy recording while it plays: one LSTM step every 10 ms, with the latency of each drawn.

The sound is that of a telephone's keypad (two tones a key, ITU-T Q.23) with a voice, hum and noise over it, made here
with NumPy and written to a WAV file. An LSTM learns from such sounds in seconds, with cylstm alone, which key sounds in
each frame. Then the WAV file is fed to ``lstm.stream`` at the pace of a sound card. Run it from anywhere, with the
``examples`` extra installed::

    python examples/stream_keypad.py

Writes into ``demo-output/``: the recording (``keypad.wav``), the model (``keypad.safetensors``), the state in the
middle of the recording (``keypad-state.npz``) and a picture (``keypad.png``). The exit status is 1 if the stream and
one call on the whole recording differ by a bit (the backend ``cython`` promises the same bits; others may round
otherwise), if a new process that goes on from the saved state does, or if other keys are read than were dialled.
Missed deadlines are counted and reported; they are the machine's.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
import wave
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from settings import add_output, missing

try:
    import matplotlib as mpl
    import numpy as np
    from tqdm import tqdm, trange

    import cylstm
    from cylstm.optim import Adam, clip_grad_norm, cross_entropy
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

RATE = 8000  # samples a second, as on the telephone
FRAME = 80  # samples: 10 ms
PERIOD = FRAME / RATE
WINDOW = 256  # samples: what a spectrum is taken of
BINS = slice(20, 56)  # of the spectrum: 600 to 1,750 Hz
KEYS = "123456789*0#"
NOTHING = len(KEYS)  # the class of a frame in which no key sounds
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz, of the rows and the columns of the keypad
DIALLED = "0049*30#5550199"
HELD = 3  # frames for which a key, or none, must be read before it counts
NOISE = 0.2  # standard deviation of what is added to the inputs in training


# ---- sound ----


def tones(key: str, samples: int) -> np.ndarray:
    """The two tones of a key, (samples,)."""
    row, column = divmod(KEYS.index(key), 3)
    t = np.arange(samples) / RATE
    return np.sin(2 * np.pi * LOW[row] * t) + np.sin(2 * np.pi * HIGH[column] * t)


def voice(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Something like speech, (samples,): syllables of gliding pitch, whose harmonics fall among the keys' tones."""
    t = np.arange(samples) / RATE
    pitch = rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * t + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = rng.uniform((300, 900), (800, 1800))
    total = np.zeros(samples)
    for harmonic in range(1, 14):
        strength = np.exp(-(((harmonic * pitch[:, np.newaxis] - formants) / 150) ** 2)).sum(axis=1)
        total += strength * np.sin(harmonic * phase)
    syllables = np.maximum(np.sin(2 * np.pi * rng.uniform(1.5, 3) * t + rng.uniform(0, 6)), 0)
    return total * syllables


def record(keys: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A recording of these keys being dialled: samples (N,) of int16, and the class of each frame, (N / FRAME,)."""
    pieces, classes = [], []
    for key in keys:
        pause, press = rng.integers(6, 25), rng.integers(6, 20)  # frames
        loudness = rng.uniform(0.5, 1)
        pieces += [np.zeros(pause * FRAME), loudness * tones(key, press * FRAME)]
        classes += [NOTHING] * pause + [KEYS.index(key)] * press
    pieces.append(np.zeros(20 * FRAME))
    classes += [NOTHING] * 20
    sound = np.concatenate(pieces)
    sound += rng.uniform(0.2, 0.6) * voice(len(sound), rng)
    sound += 0.3 * np.sin(2 * np.pi * 50 * np.arange(len(sound)) / RATE)  # hum of the mains
    sound += rng.uniform(0.05, 0.3) * rng.standard_normal(len(sound))
    return np.clip(6000 * sound, -32768, 32767).astype(np.int16), np.array(classes)


def write_wav(samples: np.ndarray, path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())


# ---- from sound to keys ----


class Reader:
    """What turns frames of sound into keys, one at a time: spectrum, LSTM, linear layer.

    Parameters
    ----------
    lstm, head : LSTM, Linear
        The trained model.

    Attributes
    ----------
    heard : ndarray
        The last WINDOW samples. These and the state of the stream are all that there is to save.
    """

    def __init__(self, lstm: cylstm.LSTM, head: cylstm.Linear) -> None:
        self.stream, self.head = lstm.stream(), head
        self.heard = np.zeros(WINDOW, np.float32)

    def features(self, frame: np.ndarray) -> np.ndarray:
        """The logarithm of the spectrum of what was heard last, (36,) float32, after this frame of int16."""
        self.heard = np.concatenate([self.heard[FRAME:], frame.astype(np.float32) / 32768])
        return spectrum(self.heard)

    def save_state(self, path: Path) -> None:
        h, c = self.stream.state
        np.savez(path, h=h, c=c, heard=self.heard)

    def load_state(self, path: Path) -> None:
        with np.load(path) as state:
            self.stream.state = state["h"], state["c"]
            self.heard = state["heard"]


def spectrum(windows: np.ndarray) -> np.ndarray:
    """(..., WINDOW) to (..., 36), float32."""
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), axis=-1)[..., BINS]) ** 2
    return (np.log10(power + 1e-4) / 2).astype(np.float32)


def decode(classes: np.ndarray) -> list[tuple[str, int]]:
    """The keys that were read, each with the frame in which it counts. A change of class counts after HELD frames."""
    read, run, settled = [], 0, NOTHING
    for t, now in enumerate(classes):
        run = run + 1 if t and now == classes[t - 1] else 1
        if run >= HELD and now != settled:
            settled = now
            if now != NOTHING:
                read.append((KEYS[now], t))
    return read


# ---- training ----


class Recordings(NamedTuple):
    """Recordings of random keys, cut to one length: their inputs (T, B, 36) and classes (T, B)."""

    inputs: np.ndarray
    classes: np.ndarray


def recordings(number: int, rng: np.random.Generator, *, frames: int = 120) -> Recordings:
    columns = []
    for _ in range(number):
        samples, classes = record("".join(rng.choice(list(KEYS), frames // 12)), rng)
        heard = np.concatenate([np.zeros(WINDOW - FRAME), samples[: frames * FRAME]]).astype(np.float32) / 32768
        windows = np.lib.stride_tricks.sliding_window_view(heard, WINDOW)[::FRAME]
        columns.append((spectrum(windows), classes[:frames]))
    return Recordings(*(np.stack(arrays, axis=1) for arrays in zip(*columns, strict=True)))


def train(data: Recordings, *, steps: int, batch_size: int = 24, seed: int = 0) -> tuple[cylstm.LSTM, cylstm.Linear]:
    """Adam, a learning rate that falls to zero along a cosine. In each step, some of the recordings."""
    cylstm.manual_seed(seed)
    rng = np.random.default_rng(seed)
    lstm, head = cylstm.LSTM(data.inputs.shape[2], 64), cylstm.Linear(64, len(KEYS) + 1)
    optimizer = Adam([lstm, head])
    for step in (progress := trange(steps, unit="step", desc="training")):
        optimizer.lr = 1e-2 * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = rng.choice(data.classes.shape[1], batch_size, replace=False)
        inputs = data.inputs[:, chosen]
        output, _, lstm_pullback = lstm.vjp(inputs + NOISE * cylstm.randn(*inputs.shape))
        scores, head_pullback = head.vjp(output)
        loss, grad_scores = cross_entropy(scores.reshape(-1, scores.shape[2]), data.classes[:, chosen].ravel())
        head_grads = head_pullback(grad_scores.reshape(scores.shape))
        grads = [lstm_pullback(head_grads.input).parameters, head_grads.parameters]
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
    return lstm, head


def without_mistake(lstm: cylstm.LSTM, head: cylstm.Linear, data: Recordings) -> int:
    """How many of the recordings are read as they were dialled."""
    output, _ = lstm(data.inputs)
    read = head(output).argmax(axis=2)
    keys = [[[key for key, _ in decode(column)] for column in classes.T] for classes in (read, data.classes)]
    return sum(map(list.__eq__, *keys))


# ---- at the pace of the sound ----


class Heard(NamedTuple):
    """The result of listening to T frames."""

    inputs: np.ndarray  # (T, 36)
    output: np.ndarray  # (T, 64), of the LSTM
    scores: np.ndarray  # (T, 13)
    step: np.ndarray  # (T,) seconds that the step of the LSTM took
    response: np.ndarray  # (T,) seconds from the end of a frame until its scores were there


def listen(
    reader: Reader, recording: Path, *, start: int = 0, period: float = PERIOD, save: tuple[int, Path] | None = None
) -> Heard:
    """Read a WAV file from frame `start` on, one frame each `period` seconds; 0 is as fast as possible.

    With ``save=(t, path)`` the state before frame t goes into a file, on the way.
    """
    clock = time.perf_counter
    rows = []
    with wave.open(str(recording), "rb") as file:
        frames = range(start, file.getnframes() // FRAME)
        file.setpos(start * FRAME)
        begin = clock()
        for t in tqdm(frames, unit="frame", desc="listening", mininterval=0.5, disable=not period):
            if save is not None and save[0] == t:
                reader.save_state(save[1])
            frame = np.frombuffer(file.readframes(FRAME), "<i2")
            due = begin + (t - start + 1) * period if period else clock()  # a sound card hands out full frames
            while (early := due - clock()) > 0:
                time.sleep(early)
            x_t = reader.features(frame)
            before = clock()
            h = reader.stream(x_t)
            after = clock()
            scores = reader.head(h)
            rows.append((x_t, h, scores, after - before, clock() - due))
    return Heard(*map(np.array, zip(*rows, strict=True)))


def go_on(model: Path, state: Path, recording: Path, start: int) -> Heard:
    """Load model and state, and listen on from frame `start`."""
    reader = Reader(cylstm.load(model, "lstm."), cylstm.load(model, "head."))
    reader.load_state(state)
    return listen(reader, recording, start=start, period=0)


def in_new_process(model: Path, state: Path, recording: Path, start: int) -> Heard:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(go_on, model, state, recording, start).result()


# ---- report ----


def percentiles(seconds: np.ndarray) -> str:
    p50, p99, most = 1e6 * np.array([*np.percentile(seconds, [50, 99]), seconds.max()])
    return f"p50 {p50:,.1f} µs, p99 {p99:,.1f} µs, max {most:,.1f} µs"


def print_histogram(seconds: np.ndarray, *, width: int = 50) -> None:
    """A bar for each octave."""
    octaves = np.floor(np.log2(1e6 * seconds)).astype(int)
    counts = np.bincount(octaves - octaves.min())
    for octave, count in enumerate(counts, octaves.min()):
        bar = "#" * math.ceil(width * count / counts.max())
        print(f"  {2.0**octave:>9,.1f} to {2.0 ** (octave + 1):>9,.1f} µs  {count:>6}  {bar}")


def draw(heard: Heard, classes: np.ndarray, read: list[tuple[str, int]], path: Path) -> None:
    """Draw what was heard, what was read, and how long it took."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    T = len(classes)
    seconds = PERIOD * T
    shares = np.exp(heard.scores - heard.scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    figure, (sound, keys, latency) = plt.subplots(
        3, 1, figsize=(11, 8), height_ratios=[1, 1, 1.1], layout="constrained"
    )
    figure.suptitle("An LSTM reads dialled keys while they sound", fontsize=14, fontweight="bold")
    frequencies = [RATE / WINDOW * (edge - 0.5) for edge in (BINS.start, BINS.stop)]
    pixels = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    sound.imshow(heard.inputs.T, cmap="magma", extent=(0, seconds, *frequencies), **pixels)
    sound.set(title="what it hears, every 10 ms: the keys' tones, a voice, noise", ylabel="Hz", xticks=[])
    keys.imshow(shares[:, :NOTHING].T, cmap="Greens", extent=(0, seconds, -0.5, NOTHING - 0.5), **pixels)
    for key, t in read:
        right = classes[t] == KEYS.index(key)
        left = PERIOD * (t - HELD), KEYS.index(key)
        style = {"color": "#1b7837" if right else "#c2410c", "fontsize": 13, "fontweight": "bold"}
        keys.annotate(key, left, xytext=(-2, 0), textcoords="offset points", ha="right", va="center", **style)
    keys.set(title="what it reads: probability of each key", xlabel="time (s)", yticks=range(NOTHING), yticklabels=KEYS)
    low, high = math.log10(heard.step.min()), math.log10(max(PERIOD, heard.response.max()))
    style = {"bins": 1e6 * np.logspace(low - 0.1, high + 0.1, 80), "alpha": 0.75}
    latency.hist(1e6 * heard.step, color="#2166ac", label=f"the LSTM's step: {percentiles(heard.step)}", **style)
    latency.hist(
        1e6 * heard.response, color="#f4a582", label=f"frame full → key known: {percentiles(heard.response)}", **style
    )
    misses = int((heard.response > PERIOD).sum())
    latency.axvline(1e6 * PERIOD, color="#c2410c", linewidth=2, label=f"deadline, 10 ms: missed by {misses} of {T}")
    latency.set(xscale="log", xlabel="µs", ylabel="frames", title="how long it takes")
    latency.set_ylim(top=1.9 * latency.get_ylim()[1])  # the legend lies above the bars
    latency.legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_output(parser)
    parser.add_argument("--steps", type=int, default=200, help="of the training (200)")
    parser.add_argument("--fast", action="store_true", help="do not wait for the time at which a frame would be full")
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    recording, model, state = (folder / name for name in ("keypad.wav", "keypad.safetensors", "keypad-state.npz"))
    picture = folder / "keypad.png"

    rng = np.random.default_rng(0)
    lstm, head = train(recordings(250, rng), steps=arguments.steps)
    cylstm.save({"lstm": lstm, "head": head}, model)
    samples, classes = record(DIALLED, rng)
    write_wav(samples, recording)
    held_out = recordings(100, rng)

    half = len(classes) // 2
    period = 0 if arguments.fast else PERIOD
    heard = listen(Reader(lstm, head), recording, period=period, save=(half, state))
    later = in_new_process(model, state, recording, half)
    bulk, _ = lstm(heard.inputs)
    apart = {
        "one call on everything": np.abs(heard.output - bulk).max(),
        "a new process, from the saved state on": np.abs(heard.scores[half:] - later.scores).max(),
    }
    read = decode(heard.scores.argmax(axis=1))
    draw(heard, classes, read, picture)

    print(f"\nthe step of the LSTM: {percentiles(heard.step)}")
    print(f"from a full frame to its key: {percentiles(heard.response)}")
    print_histogram(heard.response)
    misses = int((heard.response > PERIOD).sum())
    print(f"missed deadlines: {misses} of {len(heard.response):,}, one each {1000 * PERIOD:.0f} ms\n")
    rows = {f"stream and {name}": "same bits" if not most else f"within {most:.1e}" for name, most in apart.items()}
    rows["dialled"], rows["read"] = DIALLED, "".join(key for key, _ in read)
    rows["other recordings"] = f"{without_mistake(lstm, head, held_out)} of 100 read without a mistake"
    rows["picture"] = str(picture.resolve())
    for name, value in rows.items():
        print(f"{name:50}  {value}")
    same = not any(apart.values()) or cylstm.get_backend() != "cython"
    return 0 if same and rows["read"] == DIALLED else 1


if __name__ == "__main__":
    sys.exit(main())
