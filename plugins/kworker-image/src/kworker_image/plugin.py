"""The plugin: tasks `image.convert` and `image.thumbnail`, and how a message's words become a file."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from kworker import ConfigError, Plugin, Reject, task
from kworker_image.places import directories, read, source_path, target_path, write
from kworker_image.settings import Fit, ImageSettings, OutputFormat

Side = Annotated[int, Meta(ge=1, le=32_767)]
Quality = Annotated[int, Meta(ge=1, le=100)]

_SUFFIXES: dict[str, OutputFormat] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
_AT_ONCE = 4
"""Of each task: a picture of the default limit takes about half a gigabyte while it is worked on."""


class Images(Plugin):
    """Makes image files from image files, below configured directories and within limits."""

    Settings: ClassVar[type[msgspec.Struct] | None] = ImageSettings

    def setup(self, settings: ImageSettings) -> None:
        """Find the directories and load Pillow. Raises ConfigError with every finding."""
        from kworker_image import picture

        faults: list[str] = []
        self._roots = directories("roots", settings.roots, faults)
        self._targets = directories("targets", settings.targets, faults)
        if faults:
            raise ConfigError(faults)
        self._settings = settings
        picture.limit(settings.max_pixels)

    @task("image.convert", executor="process", concurrency=_AT_ONCE)
    def convert(
        self,
        source: str,
        target: str,
        width: Side | None = None,
        height: Side | None = None,
        fit: Fit = "contain",
        format: OutputFormat | None = None,
        quality: Quality = 85,
    ) -> dict[str, int]:
        """Write the image `source` as `target`; returns the result's `width`, `height` and `bytes`.

        fit: `contain` keeps the proportions within the sides that are given and never enlarges; `cover` fills both
        and cuts off what is too much. format: that of the target's suffix unless given, and the same.
        Raises Reject for a path outside, for what is no image, corrupt, or beyond a limit; Retry for a source that
        does not exist and for the disk.
        """
        kind = _format(target, format)
        if fit == "cover" and (width is None or height is None):
            raise Reject("fit: cover needs width and height")
        if fit == "cover" and (width or 0) * (height or 0) > self._settings.max_pixels:
            raise Reject(f"{width} x {height} are more than {self._settings.max_pixels} pixels, see max_pixels")
        return self._make(source, target, width, height, fit, kind, quality)

    @task("image.thumbnail", executor="process", concurrency=_AT_ONCE)
    def thumbnail(self, source: str, target: str, size: Side = 320, quality: Quality = 80) -> dict[str, int]:
        """Write the image `source`, made to fit into a square of `size`, as `target`; as `image.convert` does."""
        return self._make(source, target, size, size, "contain", _format(target, None), quality)

    def _make(
        self,
        source: str,
        target: str,
        width: int | None,
        height: int | None,
        fit: Fit,
        kind: OutputFormat,
        quality: int,
    ) -> dict[str, int]:
        from kworker_image import picture

        settings = self._settings
        to = target_path(target, self._targets)
        path = source_path(source, self._roots)
        if path == to:
            raise Reject("target: it is the source, which a second run would find changed")
        side = max(width or 0, height or 0)
        image = picture.decode(
            read(path, settings.max_bytes),
            settings.formats,
            max_pixels=settings.max_pixels,
            first_frame=settings.first_frame,
            least=(side, side) if width and height else None,
        )
        image = picture.resize(image, width, height, fit)
        data = picture.encode(image, kind, quality)
        write(to, data)
        return {"width": image.width, "height": image.height, "bytes": len(data)}


def _format(target: str, asked: OutputFormat | None) -> OutputFormat:
    """The format that the target's suffix says; a result under any other name could pass for something else."""
    found = next((kind for suffix, kind in _SUFFIXES.items() if target.lower().endswith(suffix)), None)
    if found is None:
        raise Reject(f"target: it must end in one of {', '.join(_SUFFIXES)}")
    if asked not in (None, found):
        raise Reject(f"target: its suffix says {found}, format says {asked}")
    return found
