"""What `[plugins.image]` of kworker.toml may say, and the closed sets of words that a message may choose from."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

InputFormat = Literal["jpeg", "png", "webp", "gif", "bmp"]
OutputFormat = Literal["jpeg", "png", "webp"]
Fit = Literal["contain", "cover"]
Directories = Annotated[list[str], Meta(min_length=1)]


class ImageSettings(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The settings of kworker-image.

    roots: directories that sources are read below. targets: directories that results are written below. formats: of
    sources; what a file is called does not count. max_bytes: of a source file. max_pixels: width times height, of a
    source and of a result. first_frame: take the first frame of an animation, which is refused otherwise.
    """

    roots: Directories
    targets: Directories
    formats: Annotated[tuple[InputFormat, ...], Meta(min_length=1)] = ("jpeg", "png", "webp", "gif")
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 32 << 20
    max_pixels: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 40_000_000
    first_frame: bool = False
