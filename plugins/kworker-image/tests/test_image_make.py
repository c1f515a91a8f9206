"""What comes out of `image.convert` and `image.thumbnail`: sides, formats, orientation, and nothing beside pixels."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from kworker import ConfigError
from kworker.testing import MemoryWorker, result_of, run_task
from kworker_image import Images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


class Studio:
    """A plugin with a directory to read and one to write."""

    def __init__(self, folder: Path) -> None:
        self.sources, self.results = folder / "in", folder / "out"
        self.sources.mkdir()
        self.results.mkdir()
        self.settings = {"roots": [str(self.sources)], "targets": [str(self.results)]}

    def make(self, task: str, **payload: Any) -> dict[str, int]:
        """The result of a task that must succeed."""
        result: Any = result_of(run_task(Images, payload, task=task, settings=self.settings))
        assert isinstance(result, dict)
        return result


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def halves(size: tuple[int, int]) -> Image.Image:
    """The left half red, the right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def near(found: Any, wanted: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(found, wanted, strict=True))


def test_a_thumbnail_fits_into_its_square(studio: Studio) -> None:
    halves((800, 400)).save(studio.sources / "a.jpg")
    made = studio.make("image.thumbnail", source="a.jpg", target="new/folder/a.webp", size=100)
    file = studio.results / "new" / "folder" / "a.webp"
    assert made == {"width": 100, "height": 50, "bytes": file.stat().st_size}
    with Image.open(file) as image:
        assert (image.format, image.size) == ("WEBP", (100, 50))
        assert near(image.getpixel((10, 25)), RED)
        assert near(image.getpixel((90, 25)), BLUE)
    assert [path.name for path in file.parent.iterdir()] == ["a.webp"]


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (80, 40)),
        ({"width": 40}, (40, 20)),
        ({"height": 10}, (20, 10)),
        ({"width": 40, "height": 40}, (40, 20)),
        ({"width": 800, "height": 800}, (80, 40)),
        ({"width": 1}, (1, 1)),
        ({"width": 30, "height": 30, "fit": "cover"}, (30, 30)),
        ({"width": 100, "height": 200, "fit": "cover"}, (100, 200)),
    ],
)
def test_sides(studio: Studio, asked: dict[str, Any], size: tuple[int, int]) -> None:
    halves((80, 40)).save(studio.sources / "a.png")
    made = studio.make("image.convert", source="a.png", target="a.png", **asked)
    assert (made["width"], made["height"]) == size
    with Image.open(studio.results / "a.png") as image:
        assert image.size == size


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("jpeg", "JPEG"), ("PNG", "PNG"), ("webp", "WEBP")])
@pytest.mark.parametrize("source", ["jpeg", "png", "webp", "gif"])
def test_formats(studio: Studio, source: str, suffix: str, kind: str) -> None:
    halves((32, 32)).save(studio.sources / "a", source)
    studio.make("image.convert", source="a", target=f"a.{suffix}", quality=95)
    with Image.open(studio.results / f"a.{suffix}") as image:
        assert image.format == kind
        assert near(image.convert("RGB").getpixel((4, 4)), RED)


def test_a_photo_is_turned_upright_and_says_nothing_else(studio: Studio) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise: what is left is above then
    exif[0x010F] = "maker's secret"
    gps = exif.get_ifd(0x8825)
    gps[1] = "N"
    halves((400, 200)).save(
        studio.sources / "a.jpg", exif=exif, icc_profile=b"profile's secret", comment=b"comment's secret"
    )
    for name in ("a.jpg", "a.png", "a.webp"):
        studio.make("image.thumbnail", source="a.jpg", target=name, size=100)
        assert b"secret" not in (studio.results / name).read_bytes()
        with Image.open(studio.results / name) as image:
            assert image.size == (50, 100)
            assert not image.getexif()
            assert {"icc_profile", "comment", "exif"}.isdisjoint(image.info)
            assert near(image.getpixel((25, 10)), RED)
            assert near(image.getpixel((25, 90)), BLUE)


def test_texts_of_a_png_are_dropped(studio: Studio) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("author", "secret", zip=False)
    halves((8, 8)).save(studio.sources / "a.png", pnginfo=texts)
    assert b"secret" in (studio.sources / "a.png").read_bytes()
    studio.make("image.convert", source="a.png", target="a.png")
    assert b"secret" not in (studio.results / "a.png").read_bytes()


def test_transparency_stays_or_becomes_white(studio: Studio) -> None:
    image = Image.new("RGBA", (16, 16), (*RED, 0))
    image.paste((*GREEN, 255), (8, 0, 16, 16))
    image.save(studio.sources / "a.png")
    image.quantize(16).save(studio.sources / "palette.png")
    for source in ("a.png", "palette.png"):
        studio.make("image.convert", source=source, target="a.jpg", quality=100)
        studio.make("image.convert", source=source, target="a.webp", quality=100)
        with Image.open(studio.results / "a.jpg") as made:
            assert near(made.getpixel((2, 8)), WHITE)
            assert near(made.getpixel((13, 8)), GREEN)
        with Image.open(studio.results / "a.webp") as made:
            pixel: Any = made.getpixel((2, 8))
            assert pixel[3] == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_color(studio: Studio, mode: str) -> None:
    if mode == "I;16":
        image = Image.new("I;16", (16, 16), 128 * 256)
    else:
        image = Image.new("L", (16, 16), 255 if mode == "1" else 128).convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.png"
    image.save(studio.sources / name)
    studio.make("image.convert", source=name, target="b.png")
    with Image.open(studio.results / "b.png") as made:
        assert near(made.convert("L").convert("RGB").getpixel((8, 8)), WHITE if mode == "1" else (128, 128, 128))


def test_the_second_run_writes_the_same_with_the_rights_of_any_file(studio: Studio, tmp_path: Path) -> None:
    halves((80, 40)).save(studio.sources / "a.png")
    studio.make("image.thumbnail", source="a.png", target="a.jpg", size=20)
    first = (studio.results / "a.jpg").read_bytes()
    studio.make("image.thumbnail", source="a.png", target="a.jpg", size=20)
    assert (studio.results / "a.jpg").read_bytes() == first
    (tmp_path / "any").touch()
    assert stat.S_IMODE((studio.results / "a.jpg").stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_absolute_paths_below_the_directories_are_as_good(studio: Studio) -> None:
    halves((80, 40)).save(studio.sources / "a.png")
    studio.make("image.convert", source=str(studio.sources / "a.png"), target=str(studio.results / "b" / "a.jpg"))
    assert (studio.results / "b" / "a.jpg").exists()


def test_directories_that_are_none_keep_the_worker_from_starting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = {"roots": [str(tmp_path / "missing"), str(tmp_path)], "targets": [str(tmp_path / "file")]}
    with pytest.raises(ConfigError) as error:
        MemoryWorker(Images, settings={"Images": settings})
    first, second = error.value.faults
    assert "roots: " in first
    assert "missing" in first
    assert second.endswith("file' is not a directory")
