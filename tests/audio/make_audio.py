# SPDX-License-Identifier: Apache-2.0
"""Makes clips/ and golden.safetensors: ten small files and their log-mel features by librosa.

  pip install librosa soundfile safetensors; apt install espeak-ng; python make_audio.py

librosa.feature.melspectrogram(sr=16000, n_fft=400, hop_length=160, window="hann", center=True,
pad_mode="reflect", power=2, n_mels=80 or 128, fmin=0, fmax=8000, htk=False, norm="slaney"), in double,
its last frame left out; log10, at least the largest value less 8; then (x + 4) / 4 as Whisper, or mean 0 and
(population) deviation 1 of each band, 1e-5 added to the deviation. Other rates go through librosa.resample(res_type="soxr_hq")."""
import os, subprocess, sys
import numpy as np, librosa, soundfile
from safetensors.numpy import save_file

here = os.path.dirname(os.path.abspath(__file__))
clips = os.path.join(here, "clips")
os.makedirs(clips, exist_ok=True)
rng = np.random.default_rng(7)


def say(voice, text, seconds, rate):
    """espeak-ng's voice from 0.05 s on, at another rate."""
    path = "/tmp/say.wav"
    subprocess.run(["espeak-ng", "-v", voice, "-w", path, text], check=True)
    x, sr = soundfile.read(path, dtype="float64")
    if sr != rate:
        x = librosa.resample(x, orig_sr=sr, target_sr=rate)
    start = int(0.05 * rate)
    return x[start : start + int(seconds * rate)]


def t(seconds, rate):
    return np.arange(int(seconds * rate)) / rate


impulse = np.zeros(400)
impulse[130] = 0.9
stereo = [say(v, "good morning", 0.3, 44100) for v in ("en-us+f3", "de+m2")]
n = min(map(len, stereo))
files = {  # name: samples, rate, subtype
    "english.wav": (say("en-us", "seven", 0.35, 16000), 16000, "PCM_16"),
    "german.wav": (say("de", "zwei", 0.35, 22050), 22050, "PCM_16"),
    "stereo.flac": (np.stack([s[:n] for s in stereo], 1), 44100, "PCM_16"),
    "telephone.wav": (say("en+f2", "three", 0.35, 8000), 8000, "PCM_16"),
    "fine.flac": (say("de+f1", "eins", 0.25, 48000), 48000, "PCM_24"),
    "chirp.wav": (0.5 * np.sin(2 * np.pi * (100 * t(0.3, 16000) + 12000 * t(0.3, 16000) ** 2)), 16000, "FLOAT"),
    "noise.wav": (rng.normal(0, 0.1, 5000), 16000, "PCM_16"),
    "tone.flac": (0.3 * np.sin(2 * np.pi * 440 * t(0.25, 16000)), 16000, "PCM_16"),
    "impulse.wav": (impulse, 16000, "PCM_16"),
    "coarse.wav": (say("en+m4", "oh", 0.3, 11025), 11025, "PCM_U8"),
}
golden = {}
for name, (x, rate, subtype) in files.items():
    path = os.path.join(clips, name)
    soundfile.write(path, x, rate, subtype)
    y, sr = soundfile.read(path, dtype="float32", always_2d=True)
    y = y.astype(np.float64).mean(1)
    if sr != 16000:
        y = librosa.resample(y.astype(np.float32), orig_sr=sr, target_sr=16000, res_type="soxr_hq").astype(np.float64)
    for n_mel, norm in ((80, "whisper"), (128, "whisper"), (80, "per_feature")):
        if n_mel == 128 and name not in ("english.wav", "stereo.flac", "noise.wav"):
            continue
        if norm == "per_feature" and name not in ("german.wav", "telephone.wav", "english.wav"):
            continue
        m = librosa.feature.melspectrogram(y=y, sr=16000, n_fft=400, hop_length=160, n_mels=n_mel, fmin=0, fmax=8000,
                                           htk=False, norm="slaney", center=True, pad_mode="reflect", power=2)
        m = np.log10(np.maximum(m[:, : len(y) // 160], 1e-10))
        m = np.maximum(m, m.max() - 8)
        if norm == "whisper":
            m = (m + 4) / 4
        else:
            m = (m - m.mean(1, keepdims=True)) / (m.std(1, keepdims=True) + 1e-5)
        golden[f"{name}.{norm}.{n_mel}"] = np.ascontiguousarray(m.T.astype(np.float32))
save_file(golden, os.path.join(here, "golden.safetensors"))
print(len(files), "files,", len(golden), "goldens, librosa", librosa.__version__)
