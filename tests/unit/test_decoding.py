"""Files that harm whoever decodes them: each costs its deadline at most, and is named."""

import os
import shutil
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import WRITE_EVERYWHERE, descendants
from recording import write_minimal

from scenerl.configs.schema import DataConfig
from scenerl.preprocess import decoding
from scenerl.preprocess.decoding import Decoder
from scenerl.preprocess.media import open_media
from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.video import read_frames

PYAV = (
    """
import ctypes, os, socket, struct, time
"""
    + WRITE_EVERYWHERE
    + """
class FFmpegError(Exception):
    pass

def hangs():
    time.sleep(1000)

def hangs_in_native_code():
    ctypes.PyDLL(None).sleep(1000)

def crashes():
    ctypes.string_at(0)

def exits():
    os._exit(3)

def aborts_when_memory_ends():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    while libc.malloc(1 << 26):
        pass
    os.abort()

def eats_memory():
    hog = bytearray(64 << 30)

def closes_everything():
    os.closerange(0, 100)
    time.sleep(1000)

def writes_junk():
    write_everywhere(b"junk" * 100)
    time.sleep(1000)

def answers(body):
    write_everywhere(struct.pack(">I", len(body)) + body)
    time.sleep(1000)

def answers_nonsense():
    answers(b'{"id": 1, "native_size": 7}')

def answers_what_was_not_asked():
    answers(b'{"id": 99}')

def announces_too_much():
    answers(b'{"id": 1, "shape": [1000000, 1000000, 3], "dtype": "uint8"}')

def leaves_a_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    raise FFmpegError("cannot open")

def calls_home():
    socket.create_connection(("127.0.0.1", int(os.environ["CANARY_PORT"])), timeout=5)

def open(path):
    globals().get(os.path.basename(path).partition(".")[0], lambda: None)()
    raise FFmpegError("cannot open")
"""
)
FATAL = {
    "crashes": "was ended by SIGSEGV",
    "exits": "ended its process with exit code 3",
    "aborts_when_memory_ends": "was ended by SIGABRT; it may take 2 GiB (data.max_decode_memory_",
    "eats_memory": "needs more memory than data.max_decode_memory_gib allows",
    "closes_everything": "closed its pipes",
    "writes_junk": "wrote a reply of",
    "answers_nonsense": "wrote nonsense",
    "answers_what_was_not_asked": "answered 99, not the question",
    "announces_too_much": "announced 3000000000000 bytes of pixels",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(12):
            image = np.full((64, 96, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a decoder that misbehaves, by the name of the file, where the real one is looked for."""
    (tmp_path / "planted" / "av").mkdir(parents=True)
    (tmp_path / "planted" / "av" / "__init__.py").write_text(PYAV)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'planted'}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


@pytest.fixture
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    """A decoder with a deadline that only what hangs misses."""
    limit_s = getattr(request, "param", 60.0)
    made = Decoder(DataConfig(decode_timeout_s=limit_s, max_decode_memory_gib=2.0))
    yield made
    made.close()
    assert not processes_of(2)


def processes_of(gib: float) -> list[int]:
    """The processes that decode with this cap; those of other tests have the default one."""
    below = descendants(os.getpid())
    cap = f'"memory_gib": {gib:.1f}'
    return sorted(pid for pid, line in below.items() if "decode_child" in line and cap in line)


def test_frames_and_facts_are_those_of_a_decoder_in_process(
    clip: Path, decoder: Decoder, tmp_path: Path
) -> None:
    scene = write_minimal(tmp_path / "scene")
    still = tmp_path / "still.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(still)
    for path, indices in ((clip, [7, 0, 7, 11]), (scene, [0, 9, 3]), (still, [0, 0])):
        source = open_media(path)
        facts = decoder.facts(path)
        assert facts.frame_indices == tuple(source.frame_indices)
        assert facts.times_s == tuple(source.times_s(index) for index in facts.frame_indices)
        assert facts.native_size == source.native_size
        frames = decoder.frames(path, indices)
        np.testing.assert_array_equal(frames, source.read(indices))
        assert frames.dtype == np.uint8
    apart = Scene.open(scene, check="files", read=decoder.image)
    alone = Scene.open(scene, check="files")
    np.testing.assert_array_equal(apart.depth_m(3), alone.depth_m(3))
    np.testing.assert_array_equal(apart.color(3), alone.color(3))


@pytest.mark.parametrize("decoder", [3.0], indirect=True)
@pytest.mark.parametrize("name", ["hangs", "hangs_in_native_code"])
def test_a_file_that_hangs_its_decoder_costs_the_deadline_once(
    name: str, clip: Path, planted: Path, decoder: Decoder
) -> None:
    bad, good = planted / f"{name}.mp4", planted / "good.mp4"
    for path in (bad, good):
        shutil.copy(clip, path)
    reason = f"{bad} was not decoded within 3 s (data.decode_timeout_s)"
    for _ in range(50):
        with pytest.raises(DataError) as caught:
            decoder.facts(bad)
        assert str(caught.value) == reason
    np.testing.assert_array_equal(decoder.frames(good, [3]), read_frames(clip, [3]))
    with bad.open("ab") as file:
        file.write(b"mended")
    started = time.monotonic()
    with pytest.raises(DataError):
        decoder.frames(bad, [0])
    assert time.monotonic() - started > 3.0


@pytest.mark.parametrize("name", FATAL)
def test_a_file_that_harms_its_decoder_is_broken_data(
    name: str, clip: Path, planted: Path, decoder: Decoder
) -> None:
    bad, good = planted / f"{name}.mp4", planted / "good.mp4"
    for path in (bad, good):
        shutil.copy(clip, path)
    with pytest.raises(DataError) as caught:
        decoder.facts(bad)
    assert FATAL[name] in str(caught.value)
    assert str(bad) in str(caught.value)
    np.testing.assert_array_equal(decoder.frames(good, [3]), read_frames(clip, [3]))


def test_what_a_decoder_starts_ends_with_it(clip: Path, planted: Path) -> None:
    path = planted / "leaves_a_daemon.mp4"
    shutil.copy(clip, path)
    decoder = Decoder(DataConfig())
    before = set(descendants(1))
    assert decoder.frames(path, [3]).shape == (1, 64, 96, 3)  # decord takes over
    decoder.close()
    left = [line for pid, line in descendants(1).items() if pid not in before]
    assert not [line for line in left if "decode_child" in line]


def test_a_decoder_has_no_network(
    clip: Path, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        monkeypatch.setenv("CANARY_PORT", str(server.getsockname()[1]))
        path = planted / "calls_home.mp4"
        shutil.copy(clip, path)
        decoder = Decoder(DataConfig())
        decoder.frames(path, [3])
        if not decoder.isolated:
            pytest.skip("this system allows no namespaces")
        decoder.close()
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_process_that_the_machine_kills_is_replaced(clip: Path, decoder: Decoder) -> None:
    expected = decoder.frames(clip, [5])
    for number in range(3):
        ours = processes_of(2)
        os.kill(ours[number % len(ours)], signal.SIGKILL)
        np.testing.assert_array_equal(decoder.frames(clip, [5]), expected)


def test_a_fork_starts_a_process_of_its_own_and_leaves_that_of_its_parent(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_LIMITS", DataConfig(max_decode_memory_gib=3.0))
    decoding.decoder.cache_clear()
    expected = decoding.decoder().frames(clip, [5])
    before = processes_of(3)
    child = os.fork()
    if child == 0:
        same = np.array_equal(decoding.decoder().frames(clip, [5]), expected)
        decoding.decoder().close()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert processes_of(3) == before
    np.testing.assert_array_equal(decoding.decoder().frames(clip, [5]), expected)
    decoding.decoder().close()
    decoding.decoder.cache_clear()
    assert not processes_of(3)


def test_threads_share_one_process(clip: Path, decoder: Decoder) -> None:
    expected = {index: decoder.frames(clip, [index]) for index in range(12)}
    wrong: list[int] = []

    def read(first: int) -> None:
        for index in [*range(first, 12), *range(first)]:
            if not np.array_equal(decoder.frames(clip, [index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(3 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(processes_of(2)) <= 3


@pytest.mark.parametrize("decoder", [1.0], indirect=True)
def test_a_pipe_in_place_of_a_frame_hangs_nobody(tmp_path: Path, decoder: Decoder) -> None:
    scene = write_minimal(tmp_path / "scene")
    frame = sorted((scene / "color").iterdir())[2]
    frame.unlink()
    os.mkfifo(frame)
    with pytest.raises(DataError, match=r"scene was not decoded within 1 s"):
        decoder.facts(scene)


def test_a_picture_that_unfolds_to_half_a_gibibyte_meets_the_cap(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (13_000, 13_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    decoder = Decoder(DataConfig(decode_timeout_s=60, max_decode_memory_gib=0.75))
    with pytest.raises(DataError, match=r"bomb\.png needs more memory than data\.max_decode"):
        decoder.frames(bomb, [0])
    decoder.close()


def test_a_picture_that_claims_to_be_huge_is_broken_data(tmp_path: Path, decoder: Decoder) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (8, 8)).save(bomb)
    content = bytearray(bomb.read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    bomb.write_bytes(content)
    with pytest.raises(DataError, match="decompression bomb"):
        decoder.facts(bomb)


def test_limits_that_allow_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.decode_timeout_s is 0, expected a number above"):
        DataConfig(decode_timeout_s=0)


def test_a_process_that_cannot_start_is_not_the_fault_of_a_file(clip: Path) -> None:
    decoder = Decoder(DataConfig(max_decode_memory_gib=0.02))
    with pytest.raises(RuntimeError, match="decodes media does not start"):
        decoder.frames(clip, [0])
