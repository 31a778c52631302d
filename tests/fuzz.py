"""Damaged and hostile files for every reader of a stranger's data, for as long as you like.

    python tests/fuzz.py                           # 10 seconds a reader, as .ci/run does
    python tests/fuzz.py --seconds 600             # a night's worth, or by hand
    python tests/fuzz.py --reader exr --seed 3

A reader may return what it documents or raise its documented error, within 20 seconds of computing
(a PNG of 117 megapixels took 6); anything else is a finding: another exception, a crash, a
hang. Each reader runs in a process of its own. The input of a finding is kept in
tests/fuzz_corpus/, from where it is tried first in every later run. Prints how many inputs each
reader was given, how many it took, and the memory it needed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "fuzz_corpus"
SLOWEST_SECONDS = 20.0
# What mistakes in sizes and counts are made of.
EDGES = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
         2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)  # fmt: skip
JSON_EDGES = (None, True, False, 0, -1, 1, 1.5, 2**31, 2**64, 10**400, -0.0, float("nan"), 1e308,
              "", "x", "\x1b[2J\n", "org/kernel", "../../x", "x" * 5000, [], {}, [[]], [0] * 40,
              {"a": {"a": {"a": 1}}})  # fmt: skip


class Finding(Exception):
    """What a reader must not do."""


@dataclass(frozen=True)
class Reader:
    """seeds: sound inputs. mutate: one of them, and chance, to a damaged one. read: True if it was
    taken, False if it was refused as documented. suffix: of the file that `read` is given."""

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], bool]


# --- how inputs are damaged ---


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, integers set to the edges of their range, parts cut, doubled or moved."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(7):
            case 0 if at < len(content):
                content[at] = chance.randrange(256)
            case 1 if at < len(content):
                content[at] ^= 1 << chance.randrange(8)
            case 2:
                size = chance.choice((1, 2, 4, 8))
                order = chance.choice(("little", "big"))
                value = (chance.choice(EDGES) + chance.choice((0, 0, 1, -1))) % 256**size
                content[at : at + size] = value.to_bytes(size, order)
            case 3:
                del content[at : at + chance.choice((1, 4, 16, 100))]
            case 4:
                part = content[at : at + chance.choice((4, 30, 300))]
                content[at:at] = part * chance.choice((1, 1, 2, 50))
            case 5:
                content[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
            case 6 if chance.random() < 0.3:
                del content[at:]
    return bytes(content[: 1 << 20])


def damaged_png(data: bytes, chance: random.Random) -> bytes:
    """As `damaged`, and then with right checksums, so that the damage is looked at."""
    content = damaged(data, chance)
    if not content.startswith(b"\x89PNG") or chance.random() < 0.3:
        return content
    pieces, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        pieces.append(content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(pieces)


def damaged_json(content: object, chance: random.Random) -> object:
    """A JSON value with some of its parts replaced, removed or added."""
    if chance.random() < 0.15:
        return chance.choice(JSON_EDGES)
    if isinstance(content, dict) and content:
        changed = dict(content)
        key = chance.choice(sorted(changed))
        match chance.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[chance.choice(("auto_map", "_attn_implementation", "a\nb", key + "x"))] = (
                    chance.choice(JSON_EDGES)
                )
            case _:
                changed[key] = damaged_json(changed[key], chance)
        return changed
    if isinstance(content, list) and content:
        at = chance.randrange(len(content))
        return [*content[:at], damaged_json(content[at], chance), *content[at + 1 :]]
    if isinstance(content, int) and chance.random() < 0.5:
        return content + chance.choice((-1, 1, -1000, 10**9, 0.5))
    return chance.choice(JSON_EDGES)


def json_text(content: object, chance: random.Random) -> bytes:
    text = json.dumps(content).encode()
    return damaged(text, chance) if chance.random() < 0.2 else text


# --- the readers ---


def picture_seeds() -> list[bytes]:
    import numpy as np
    from PIL import Image, features

    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (11, 13, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[Image.Image, str, dict]] = [
        (colour, "PNG", {}), (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour.convert("L"), "PNG", {}), (colour.convert("RGBA"), "PNG", {}),
        (Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16)), "PNG", {}),
        (colour, "JPEG", {"exif": exif}), (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}), (colour.convert("P"), "GIF", {}),
        (colour, "BMP", {}), (colour, "PPM", {}), (colour, "TGA", {"compression": "tga_rle"}),
        (colour, "WEBP", {}), (colour, "WEBP", {"lossless": True}),
        *((colour, "TIFF", {"compression": c, "exif": exif})
          for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        (colour.convert("F"), "TIFF", {}), (colour.convert("1"), "TIFF", {"compression": "group4"}),
    ]  # fmt: skip
    if features.check("avif"):
        variants.append((colour, "AVIF", {}))
    if features.check("jpg_2000"):
        variants.append((colour, "JPEG2000", {}))
    files = []
    for image, kind, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def read_picture(file: Path) -> bool:
    import numpy as np

    from marigold_core.errors import MarigoldError
    from marigold_core.images import read_image

    try:
        picture = read_image(file)
    except MarigoldError as error:
        check_message(error)
        return False
    if picture.dtype != np.float32 or not (picture.min() >= 0 and picture.max() <= 1):
        raise Finding(f"a picture from {picture.min()} to {picture.max()}")
    return True


def depth_seeds(*suffixes: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        import numpy as np

        from marigold_core.depth_files import write_array

        values = np.random.default_rng(0).random((9, 7), dtype=np.float32)
        files = []
        with tempfile.TemporaryDirectory() as folder:
            for suffix in suffixes:
                write_array(Path(folder) / f"a{suffix}", values)
                files.append((Path(folder) / f"a{suffix}").read_bytes())
        return files

    return seeds


def read_depth(suffix: str) -> Callable[[Path], bool]:
    def read(file: Path) -> bool:
        from marigold_core.depth_files import read_array
        from marigold_core.errors import MarigoldError

        named = file.rename(file.with_suffix(suffix))
        try:
            values = read_array(named)
        except MarigoldError as error:
            check_message(error)
            return False
        finally:
            named.rename(file)
        if values.ndim != 2 or values.dtype != "float32":
            raise Finding(f"a depth map {values.shape} {values.dtype}")
        return True

    return read


def weight_seeds() -> list[bytes]:
    header = {
        f"down_blocks.{n}.weight": {
            "dtype": d,
            "shape": [2, 3],
            "data_offsets": [24 * n, 24 * n + s],
        }
        for n, (d, s) in enumerate((("F32", 24),) * 4)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(96)]


def damaged_weights(seed: bytes, chance: random.Random) -> bytes:
    header = json_text(damaged_json(json.loads(seed[8:-96]), chance), chance)
    length = len(header) if chance.random() < 0.8 else chance.choice(EDGES)
    whole = struct.pack("<Q", length) + header + bytes(chance.choice((96, 96, 96, 0, 95, 97)))
    return damaged(whole, chance) if chance.random() < 0.1 else whole


def read_weights(file: Path) -> bool:
    from marigold_core.checkpoints.weights import Weights, read_header
    from marigold_core.errors import CheckpointError

    try:
        tensors = read_header(file)
        list(Weights(file.parent, (file,), None, tensors).load())
    except CheckpointError as error:
        check_message(error)
        return False
    return True


PARTS = ("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
         "scheduler/scheduler_config.json", "tokenizer/vocab.json")  # fmt: skip


def config_seeds() -> list[bytes]:
    """The bundled checkpoint's configurations, each with its place before it."""
    from marigold_core.checkpoints.published import BUNDLED

    nano = BUNDLED["nano"]
    return [part.encode() + b"\0" + (nano / part).read_bytes() for part in PARTS]


def damaged_config(seed: bytes, chance: random.Random) -> bytes:
    part, _, text = seed.partition(b"\0")
    return part + b"\0" + json_text(damaged_json(json.loads(text), chance), chance)


def read_config(file: Path) -> bool:
    from marigold_core.checkpoints import empty_prompt
    from marigold_core.checkpoints.inspection import inspect_checkpoint
    from marigold_core.checkpoints.networks import describe_network
    from marigold_core.checkpoints.published import BUNDLED
    from marigold_core.checkpoints.weights import find_weights
    from marigold_core.errors import CheckpointError

    part, _, text = file.read_bytes().partition(b"\0")
    name = part.decode("utf-8", "replace")
    if name not in PARTS:
        return False
    copy = file.parent / "checkpoint"
    if not copy.exists():
        for source in filter(Path.is_file, BUNDLED["nano"].rglob("*")):
            target = copy / source.relative_to(BUNDLED["nano"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    (copy / name).unlink()
    (copy / name).write_bytes(text)
    try:
        for component in inspect_checkpoint(copy).components.values():
            describe_network(component)
        if name.startswith(("text_encoder", "tokenizer")):
            empty_prompt.encode_empty_prompt(copy, find_weights(copy / "text_encoder"))
    except CheckpointError as error:
        check_message(error)
        return False
    finally:
        (copy / name).unlink()
        (copy / name).symlink_to(BUNDLED["nano"] / name)
    return True


def frame_seeds() -> list[bytes]:
    import numpy as np

    from marigold_core.worker.jsonrpc import encode

    arrays = {"image": np.zeros((2, 3, 3), np.float32), "mask": np.ones((2, 3), bool)}
    frames = [
        encode({"id": 1, "method": "depth", "params": {"steps": 2}}, arrays),
        encode({"id": "a", "method": "cancel", "params": {"id": 1}}),
    ]
    return [b"".join(map(bytes, frame)) for frame in frames]


def read_frame(file: Path) -> bool:
    from marigold_core.worker.jsonrpc import MessageReader, ProtocolError

    data = file.read_bytes()
    reader = MessageReader()
    try:
        for at in range(0, len(data), 97):
            reader.feed(data[at : at + 97])
        reader.close()
    except ProtocolError:
        return False
    return True


def checksum_seeds() -> list[bytes]:
    return [b"".join(b"%064x  unet/file-%d.bin\n" % (n, n) for n in range(4))]


def read_checksums(file: Path) -> bool:
    from marigold_core.checkpoints import checksums
    from marigold_core.errors import CheckpointError

    listed = file.rename(file.with_name(checksums.FILE_NAME))
    try:
        names = checksums.read_checksums(file.parent) or {}
    except CheckpointError as error:
        check_message(error)
        return False
    finally:
        listed.rename(file)
    if any(file.parent.resolve() not in (file.parent / name).resolve().parents for name in names):
        raise Finding(f"a path that leads out of the folder among {list(names)}")
    return True


def state_seeds() -> list[bytes]:
    progress = {"step": 1200, "recipe": {"seed": 2024, "data": ["folder:a"]}, "best": 0.25}
    return [json.dumps(progress).encode(), json.dumps(progress | {"best": None}).encode()]


def damaged_state(seed: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return damaged(seed, chance)
    return json_text(damaged_json(json.loads(seed), chance), chance)


def read_state(file: Path) -> bool:
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from checkpointing import read_progress

    try:
        progress = read_progress(file)
    except ValueError:  # `load_state` makes it one message; RecursionError and others would escape
        return False
    if not isinstance(progress["step"], int) or not isinstance(progress["recipe"], dict):
        raise Finding(f"a state with {progress}")
    return True


READERS = {
    "pictures": Reader(picture_seeds, damaged_png, read_picture),
    "npy": Reader(depth_seeds(".npy"), damaged, read_depth(".npy")),
    "exr": Reader(depth_seeds(".exr"), damaged, read_depth(".exr")),
    "depth_pictures": Reader(depth_seeds(".tif"), damaged, read_depth(".tif")),
    "weights": Reader(weight_seeds, damaged_weights, read_weights),
    "configs": Reader(config_seeds, damaged_config, read_config),
    "frames": Reader(frame_seeds, damaged, read_frame),
    "checksums": Reader(checksum_seeds, damaged, read_checksums),
    "states": Reader(state_seeds, damaged_state, read_state),  # of training; needs accelerate
}


def check_message(error: Exception) -> None:
    message = str(error)
    if not message or not message.isprintable() or len(message) > 2000:
        raise Finding(f"an error message of {len(message)} characters: {message[:200]!r}")


# --- running them ---


def inputs(name: str, chance: random.Random) -> Iterator[bytes]:
    """The sound inputs, what was found before, then damaged ones without end."""
    reader = READERS[name]
    kept = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    sound = reader.seeds()
    yield from sound
    yield from kept
    while True:
        yield reader.mutate(chance.choice(sound), chance)


def run_reader(name: str, seconds: float, seed: int, most: int | None = None) -> dict[str, int]:
    """Give one reader inputs for some seconds; how many it was given, took and refused."""
    reader, chance = READERS[name], random.Random(seed)
    sound = len(reader.seeds())  # the first ones import libraries, which takes its time
    counts = {"inputs": 0, "taken": 0, "refused": 0}
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(os.environ.get("FUZZ_INPUT") or Path(folder) / "input")
        for data in inputs(name, chance):
            if time.monotonic() > ends or counts["inputs"] == most:
                break
            file.write_bytes(data)
            started = time.process_time()  # not the clock's: the machine may be busy
            counts["taken" if reader.read(file) else "refused"] += 1
            counts["inputs"] += 1
            spent = time.process_time() - started
            if counts["inputs"] > sound and spent > SLOWEST_SECONDS:
                raise Finding(f"{spent:.1f} seconds for one input")
    return counts


def run_apart(name: str, seconds: float, seed: int) -> bool:
    """`run_reader` in a process of its own; whether nothing was found. Prints what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "input"
        command = [sys.executable, __file__, "--child", name, str(seconds), str(seed)]
        environment = os.environ | {"FUZZ_INPUT": str(last), "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds + 90
            )
            status, output, said = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            status, output, said = -1, "", "it hangs"
        if status == 0:
            print(f"{name:<15}{output.strip()}", flush=True)
            return True
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        kept = CORPUS / name / f"seed{seed}-{zlib.crc32(last.read_bytes()):08x}"
        kept.write_bytes(last.read_bytes())
        lines = said.strip().splitlines() or [f"it ended with status {status}"]
        print(f"{name:<15}FOUND {lines[-1]}\n  {kept}", flush=True)
        return False


def child(name: str, seconds: float, seed: int) -> None:
    sys.path[:0] = [str(Path(__file__).parents[1])]
    counts = run_reader(name, seconds, seed)
    try:
        import resource

        unit = 1024 if sys.platform == "darwin" else 1
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 * unit)
    except ImportError:  # Windows
        memory = 0
    print(", ".join(f"{count} {word}" for word, count in counts.items()) + f", {memory} MB at most")


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="for each reader")
    parser.add_argument("--reader", choices=READERS, action="append", help="(default: all)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.reader or READERS
    return 0 if all([run_apart(n, arguments.seconds, arguments.seed) for n in names]) else 1


if __name__ == "__main__":
    sys.exit(main())
