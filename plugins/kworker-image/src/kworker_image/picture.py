"""The Pillow side: bytes to a picture within limits, its size, and back to bytes without metadata.

An image's size is judged by its header, before memory is taken for it. Every format is named to Pillow, so that none
of its rarer decoders ever sees a byte.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from PIL import Image, ImageOps, UnidentifiedImageError

from kworker import Reject, Retry
from kworker_image.settings import Fit, OutputFormat

Size = tuple[int, int]

_OPTIONS: dict[str, dict[str, object]] = {
    "jpeg": {"optimize": True, "progressive": True},
    "png": {"optimize": True},
    "webp": {"method": 4},
}


def limit(max_pixels: int) -> None:
    """Set Pillow's own limit too, in this process: it also holds inside of its decoders."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode(
    data: bytes, formats: Sequence[str], *, max_pixels: int, first_frame: bool, least: Size | None
) -> Image.Image:
    """The picture in `data`, upright and as RGB or RGBA. Raises Reject for what is corrupt, too large or not allowed.

    least: it may come smaller than it is, but not smaller than this; saves most of the work for a JPEG's thumbnail.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[name.upper() for name in formats]) as image:
            width, height = image.size
            if width * height > max_pixels:  # Pillow only warns, and warnings are not ours alone
                raise Reject(f"source: it has more than {max_pixels} pixels, see max_pixels")
            # A photo with a preview in it (MPO) is several pictures to Pillow, of which the first is the photo.
            if not first_frame and image.format != "MPO" and getattr(image, "is_animated", False):
                raise Reject("source: it is an animation, see first_frame")
            if least is not None:
                image.draft(None, least)
            return _plain(ImageOps.exif_transpose(image))
    except Reject:
        raise
    except UnidentifiedImageError:
        raise Reject(f"source: it is none of {', '.join(formats)}, or broken at its start") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Reject(f"source: it has more than {max_pixels} pixels, see max_pixels") from None
    except MemoryError:
        raise Retry("there is not enough memory for the image now") from None
    except Exception as error:  # what a broken image makes of a decoder: OSError, SyntaxError, struct.error and more
        raise Reject(f"source: it cannot be decoded: {type(error).__name__}: {str(error)[:200]}") from error


def _plain(image: Image.Image) -> Image.Image:
    """As RGB or RGBA, without anything beside the pixels."""
    if image.mode.startswith("I"):  # 16 bits a pixel: the upper 8; a conversion would cut off what is above 255
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        image.info.pop("transparency", None)  # a level of 16 bits, which means nothing any more
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain.info.clear()
    return plain


def resize(image: Image.Image, width: int | None, height: int | None, fit: Fit) -> Image.Image:
    """`contain`: within the given sides, its proportions kept, never larger than it is. `cover`: exactly both sides,
    what is too much cut off evenly; needs both."""
    if fit == "cover":
        assert width is not None
        assert height is not None
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    scale = min(1.0, (width or image.width) / image.width, (height or image.height) / image.height)
    if scale == 1.0:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, kind: OutputFormat, quality: int) -> bytes:
    """The bytes of an image file. JPEG has no transparency: white shows through. Raises Reject when it cannot be."""
    if kind == "jpeg" and image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        image = ground.convert("RGB")
    lossy = {} if kind == "png" else {"quality": quality}
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind.upper(), **_OPTIONS[kind], **lossy)
    except (OSError, ValueError) as error:  # nothing but its sides can be wrong: WebP has 16,383 at most
        raise Reject(f"the result cannot be a {kind} of {image.width} x {image.height}: {error}") from error
    return buffer.getvalue()
