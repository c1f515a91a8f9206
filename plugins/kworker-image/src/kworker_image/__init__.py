"""kworker-image: thumbnails and conversions of images, with limits against decompression bombs."""

from __future__ import annotations

from kworker_image.plugin import Images
from kworker_image.settings import ImageSettings

__all__ = ["ImageSettings", "Images"]
