"""Make marigold_core/assets/example.webm, the clip of the ComfyUI template: a pan over the picture.

python docs/example_clip.py      # with a Python that has PyAV and Pillow, such as ComfyUI's
"""

from __future__ import annotations

import math
from pathlib import Path

import av  # type: ignore[import-not-found]
from PIL import Image

ASSETS = Path(__file__).parents[1] / "marigold_core" / "assets"
FRAMES, RATE = 24, 12
WINDOW, SIZE = (480, 360), (320, 240)  # pixels of the picture, and of the clip


def main() -> None:
    picture = Image.open(ASSETS / "example.jpg").convert("RGB")
    file = ASSETS / "example.webm"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "30", "b": "0"}
        for number in range(FRAMES):
            # Slow at both ends.
            share = (1 - math.cos(math.pi * number / (FRAMES - 1))) / 2
            left = share * (picture.width - WINDOW[0])
            top = (1 - share) * (picture.height - WINDOW[1])
            box = (left, top, left + WINDOW[0], top + WINDOW[1])
            frame = picture.resize(SIZE, Image.Resampling.LANCZOS, box)
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    print(f"wrote {file}, {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
