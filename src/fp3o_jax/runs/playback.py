"""Looking at a policy: one episode as an animated GIF or MP4, or as a page in which Brax plays it."""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.envs import Environment
from fp3o_jax.envs.scenes import Color, Marker, Point, Scene
from fp3o_jax.evaluation import Episode, record
from fp3o_jax.train import Trainer

if TYPE_CHECKING:
    from PIL import Image

#: Pixels of the longer side of a picture, and of the caption above it.
SIZE = 560
CAPTION = 30
#: Drawn this much larger and then reduced, which smooths the edges.
OVERSAMPLING = 3
COLORS = 64
STEP_MILLISECONDS = 160
LAST_MILLISECONDS = 2000
#: What a robot does in less time needs no frame of its own.
SHORTEST_MILLISECONDS = 40

BACKGROUND: Color = (250, 250, 247)
CAPTION_BACKGROUND: Color = (38, 44, 52)
DARK: Color = (30, 30, 30)
LIGHT: Color = (245, 245, 245)
BAR: Color = (40, 160, 70)
BAR_EMPTY: Color = (215, 215, 215)


def render_policy(
    trainer: Trainer, params: Any, *, key: Array, output: Path | str, greedy: bool = True
) -> Path:
    """Plays one episode and writes it to a file.

    Args:
        trainer: what ``make_train`` returned.
        params: ``state.params`` of one seed.
        key: PRNG key of the episode.
        output: the file, replaced if it exists: ``.gif`` or ``.mp4`` or, for MABrax, ``.html``. A path
            without a suffix gets the first that fits.
        greedy: take the most probable action (else sample).

    Returns:
        The file's path.

    Raises:
        ConfigError: the environment cannot be shown, or not in a file of this kind, or PyAV, which writes
            ``.mp4``, is not installed. Raised before playing.
    """
    path = _resolve(trainer.env, Path(output))
    render(trainer.env, record(trainer, params, key, greedy), path)
    return path


def render(env: Environment, episode: Episode, path: Path | str) -> None:
    """Writes an episode of ``env`` to a file: a GIF or MP4 with a frame for each of the T+1 states (or for as
    many as an eye can tell, where steps have a time in the world that is shown); or, where the environment
    has one, its HTML page, which loads Brax's viewer from the network.

    Raises:
        ConfigError: the environment cannot be shown, or not in a file of this kind, or PyAV is missing.
    """
    path = _resolve(env, Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if env.html is not None:
        path.write_text(env.html(episode.states), encoding="utf-8")
        return
    from PIL import Image

    every, milliseconds = _pace(env.step_seconds)
    captions = _captions(env, episode)
    # The last one tells how it ended.
    shown = sorted({*range(0, len(captions), every), len(captions) - 1})
    states = jax.tree.map(lambda x: x[shown], episode.states)
    pictures = (
        map(picture, env.scenes(states)) if env.frames is None else map(Image.fromarray, env.frames(states))
    )
    images = [captioned(image, *captions[t]) for t, image in zip(shown, pictures, strict=True)]
    save = _save_mp4 if path.suffix == ".mp4" else _save_gif
    save(images, path, milliseconds)


def draw(scene: Scene, left: str = "", right: str = "") -> Image.Image:
    """One frame, with a caption above it.

    Args:
        scene: what is drawn.
        left, right: the caption's two ends.
    """
    return captioned(picture(scene), left, right)


def captioned(image: Image.Image, left: str, right: str) -> Image.Image:
    """A picture with a caption above it, of two ends."""
    from PIL import Image, ImageDraw

    width, height = image.width * OVERSAMPLING, CAPTION * OVERSAMPLING
    caption = Image.new("RGB", (width, height), CAPTION_BACKGROUND)
    canvas = ImageDraw.Draw(caption)
    font, margin = _font(16 * OVERSAMPLING), 10 * OVERSAMPLING
    canvas.text((margin, height / 2), left, LIGHT, font, anchor="lm")
    canvas.text((width - margin, height / 2), right, LIGHT, font, anchor="rm")
    whole = Image.new("RGB", (image.width, image.height + CAPTION), BACKGROUND)
    whole.paste(caption.reduce(OVERSAMPLING))
    whole.paste(image, (0, CAPTION))
    return whole


def picture(scene: Scene) -> Image.Image:
    """A scene, drawn."""
    from PIL import Image, ImageDraw

    low, high = np.array(scene.low), np.array(scene.high)
    pixels = SIZE * OVERSAMPLING / (high - low).max()
    width, height = (round(side * pixels / OVERSAMPLING) * OVERSAMPLING for side in high - low)
    image = Image.new("RGB", (width, height), BACKGROUND)
    canvas = ImageDraw.Draw(image)

    def place(point: Point) -> Point:
        return (point[0] - low[0]) * pixels, (high[1] - point[1]) * pixels

    for line in scene.lines:
        ends = [place(line.start), place(line.end)]
        canvas.line(ends, fill=line.color, width=(3 if line.bold else 1) * OVERSAMPLING)
    for marker in scene.markers:
        _draw_marker(canvas, marker, *place(marker.position), marker.radius * pixels)
    return image.reduce(OVERSAMPLING)


def _draw_marker(canvas: Any, marker: Marker, x: float, y: float, radius: float) -> None:
    # What surrounds a small marker is small as well, or a crowd would be hidden below its own bars.
    stroke = max(1, round(min(OVERSAMPLING, radius / 9)))

    def around(r: float) -> tuple[float, float, float, float]:
        return x - r, y - r, x + r, y + r

    if marker.shape == "cross":
        left, top, right, bottom = around(radius)
        canvas.line((left, top, right, bottom), fill=marker.color, width=3 * OVERSAMPLING)
        canvas.line((left, bottom, right, top), fill=marker.color, width=3 * OVERSAMPLING)
        return
    if marker.shape == "disc":
        canvas.ellipse(around(radius), fill=marker.color, outline=DARK, width=stroke)
    else:
        canvas.rectangle(around(radius * 0.9), fill=marker.color, outline=DARK, width=stroke)
    if marker.label:
        color = DARK if sum(marker.color) > 3 * 128 else LIGHT
        canvas.text((x, y), marker.label, color, _font(radius * 1.4), anchor="mm")
    if marker.ring > 0:
        canvas.arc(around(radius + 5 * stroke), -90, -90 + 360 * marker.ring, fill=DARK, width=2 * stroke)
    if marker.bar is not None:
        left, right, bottom = x - radius, x + radius, y - radius - 7 * stroke
        top, filled = bottom - 6 * stroke, left + 2 * radius * marker.bar
        canvas.rectangle((left, top, right, bottom), fill=BAR_EMPTY)
        canvas.rectangle((left, top, filled, bottom), fill=BAR)
        canvas.rectangle((left, top, right, bottom), outline=DARK, width=stroke)


def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=max(size, 1))


def _captions(env: Environment, episode: Episode) -> list[tuple[str, str]]:
    """The caption's two ends for each of the T+1 frames: what goes on, and how it ended."""
    returns = np.concatenate([[0.0], np.cumsum(episode.outcomes.team_reward)])
    last = episode.num_steps
    end = ""
    if env.reports_wins:
        won, truncated = episode.outcomes.won[-1], episode.outcomes.truncated[-1]
        end = "victory" if won else "time limit" if truncated else "defeat"
    return [
        (f"{env.name}    step {t}/{last}    return {value:.2f}", end if t == last else "")
        for t, value in enumerate(returns)
    ]


def _pace(step_seconds: float | None) -> tuple[int, int]:
    """Every how many steps there is a frame, and how long it is shown, in milliseconds: as long as the steps
    take in the world that is shown, if that has a time, and not so short that no player follows."""
    if step_seconds is None:
        return 1, STEP_MILLISECONDS
    every = max(1, math.ceil(SHORTEST_MILLISECONDS / (1000 * step_seconds)))
    return every, round(1000 * step_seconds * every)


def _save_gif(frames: list[Image.Image], path: Path, milliseconds: int = STEP_MILLISECONDS) -> None:
    from PIL import Image

    # One palette for all frames, from a few of them: what stands still is then stored once.
    samples = frames[:: max(len(frames) // 8, 1)]
    width, height = frames[0].size
    strip = Image.new("RGB", (width, height * len(samples)))
    for i, frame in enumerate(samples):
        strip.paste(frame, (0, i * height))
    palette = strip.quantize(COLORS, dither=Image.Dither.NONE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=[milliseconds] * len(rest) + [LAST_MILLISECONDS],
        loop=0,
    )


def _save_mp4(frames: list[Image.Image], path: Path, milliseconds: int = STEP_MILLISECONDS) -> None:
    import av
    from PIL import Image

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(1000, milliseconds))
        # The one layout of colours that every player knows; its sides are even.
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = (side + side % 2 for side in frames[0].size)
        for frame in frames:
            even = Image.new("RGB", (stream.width, stream.height), BACKGROUND)
            even.paste(frame)
            file.mux(stream.encode(av.VideoFrame.from_image(even)))
        file.mux(stream.encode())


def _resolve(env: Environment, path: Path) -> Path:
    """The path with a suffix that fits the environment, and can be written."""
    if env.scenes is None and env.html is None and env.frames is None:
        raise ConfigError(
            f"env={env.name!r} has nothing to draw: episodes of smax/..., mpe/..., mabrax/... and "
            "mamujoco/... can be shown, and those of an Environment with `scenes`, `frames` or `html`"
        )
    suffixes = (".gif", ".mp4") if env.html is None else (".html",)
    if path.suffix not in ("", *suffixes):
        raise ConfigError(
            f"output={str(path)!r}: an episode of {env.name} is written as {' or '.join(suffixes)}"
        )
    if path.suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise ConfigError(f"output={str(path)!r}: MP4 needs PyAV: pip install av, or write a .gif")
    return path if path.suffix else path.with_suffix(suffixes[0])
