"""What may not happen: bombs, broken files, paths that lead elsewhere, half a file; and what is worth a retry."""

from __future__ import annotations

import errno
import os
import resource
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kworker.task import Failed, Outcome, Reason, Refused
from kworker.testing import run_task
from kworker_image import Images


class Gate:
    """A plugin with a directory to read and one to write, and a secret beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources, self.results = folder / "in", folder / "out"
        self.sources.mkdir()
        self.results.mkdir()
        (folder / "in-private").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "in-private" / "secret.png")
        Image.new("RGB", (8, 8)).save(self.sources / "good.png")

    def outcome(self, task: str = "image.convert", settings: dict[str, Any] | None = None, **payload: Any) -> Outcome:
        """What comes of one attempt."""
        table = {"roots": [str(self.sources)], "targets": [str(self.results)], **(settings or {})}
        return run_task(Images, {"source": "good.png", "target": "out.png", **payload}, task=task, settings=table)

    def refusal(self, **payload: Any) -> str:
        """Why it was rejected; nothing was written."""
        outcome = self.outcome(**payload)
        assert isinstance(outcome, Refused), outcome
        assert outcome.reason is Reason.REJECTED
        assert not list(self.results.iterdir())
        return outcome.error.message


def test_decoders_work_in_child_processes_where_they_can_be_killed_and_crash_alone() -> None:
    assert {spec.name: spec.executor for spec in Images().tasks()} == {
        "image.convert": "process",
        "image.thumbnail": "process",
    }


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def peak() -> int:
    """Peak of resident memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("side", [6_500, 8_000, 60_000, 2_000_000])
def test_a_small_file_that_claims_to_be_huge_is_refused_at_its_header(gate: Gate, side: int) -> None:
    (gate.sources / "bomb.png").write_bytes(png(side, side, zlib.compress(bytes(1 << 20))))
    assert (gate.sources / "bomb.png").stat().st_size < 2_000
    gate.outcome()  # Pillow and its decoders are in memory now
    (gate.results / "out.png").unlink()
    before = peak()
    assert "pixels, see max_pixels" in gate.refusal(source="bomb.png")
    assert "pixels, see max_pixels" in gate.refusal(source="bomb.png", task="image.thumbnail")
    assert peak() - before < 16 << 20


@pytest.mark.parametrize("kind", ["gif", "bmp", "webp", "jpeg"])
def test_the_limit_holds_for_every_format(gate: Gate, kind: str) -> None:
    Image.new("RGB", (40, 30)).save(gate.sources / "a", kind)
    settings = {"max_pixels": 1199, "formats": [kind]}
    assert "more than 1199 pixels" in gate.refusal(source="a", settings=settings)
    assert not isinstance(gate.outcome(source="a", settings={"max_pixels": 1200, "formats": [kind]}), Refused)


def test_the_limit_holds_though_warnings_are_let_through(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 30)).save(gate.sources / "a.png")
    monkeypatch.setattr(warnings, "simplefilter", lambda *_: warnings.filterwarnings("ignore"))
    assert "more than 1199 pixels" in gate.refusal(source="a.png", settings={"max_pixels": 1199})


def test_the_result_has_limits_too(gate: Gate) -> None:
    assert "see max_pixels" in gate.refusal(width=30_000, height=30_000, fit="cover")
    outcome = gate.outcome(width=40_000, height=1, fit="cover")
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.INVALID
    webp = gate.refusal(width=20_000, height=1, fit="cover", target="out.webp")
    assert "cannot be a webp of 20000 x 1" in webp


def test_a_file_beyond_max_bytes_is_refused(gate: Gate) -> None:
    (gate.sources / "a.png").write_bytes(bytes(1025))
    assert "more than 1024 bytes" in gate.refusal(source="a.png", settings={"max_bytes": 1024})


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_every_truncation_is_refused_or_a_picture(gate: Gate, kind: str) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(gate.sources / "whole", kind)
    whole = (gate.sources / "whole").read_bytes()
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        (gate.sources / "cut").write_bytes(whole[:length])
        outcome = gate.outcome(source="cut")
        assert not isinstance(outcome, Failed), outcome
        refused += isinstance(outcome, Refused)
    assert refused >= 35


def test_broken_bytes_are_refused_or_a_picture(gate: Gate) -> None:
    import random

    chance = random.Random(20)
    for kind in ("jpeg", "png", "webp", "gif", "bmp"):
        Image.effect_noise((32, 32), 50).convert("RGB").save(gate.sources / "whole", kind)
        whole = (gate.sources / "whole").read_bytes()
        for _ in range(40):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                broken[chance.randrange(min(len(broken), chance.choice([40, 4000])))] = chance.randrange(256)
            (gate.sources / "broken").write_bytes(broken)
            outcome = gate.outcome(source="broken", settings={"formats": [kind]})
            assert not isinstance(outcome, Failed), outcome


def test_only_the_listed_formats_are_decoded(gate: Gate) -> None:
    image = Image.new("RGB", (8, 8))
    for kind in ("bmp", "tiff", "ppm", "pcx", "ico"):
        image.save(gate.sources / "a.png", kind)
        assert "it is none of jpeg, png, webp, gif" in gate.refusal(source="a.png")
    (gate.sources / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "it is none of" in gate.refusal(source="a.png")
    image.save(gate.sources / "a.png", "webp")
    assert "it is none of jpeg, png" in gate.refusal(source="a.png", settings={"formats": ["jpeg", "png"]})


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_is_refused_or_gives_its_first_frame(gate: Gate, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    frames[0].save(gate.sources / "a", kind, save_all=True, append_images=frames[1:])
    assert "it is an animation" in gate.refusal(source="a")
    gate.outcome(source="a", settings={"first_frame": True})
    with Image.open(gate.results / "out.png") as image:
        red: Any = image.convert("RGB").getpixel((4, 4))
        assert red[0] > 240
        assert red[2] < 15


def test_a_photo_with_a_preview_in_it_is_no_animation(gate: Gate) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(gate.sources / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert not isinstance(gate.outcome(source="a.jpg"), Refused)


@pytest.mark.parametrize(
    "source",
    ["../in-private/secret.png", "x/../../in-private/secret.png", "link.png", "folder/secret.png", "absolute", "."],
)
def test_nothing_outside_is_read(gate: Gate, source: str) -> None:
    (gate.sources / "link.png").symlink_to(gate.folder / "in-private" / "secret.png")
    (gate.sources / "folder").symlink_to(gate.folder / "in-private")
    source = str(gate.folder / "in-private" / "secret.png") if source == "absolute" else source
    said = gate.refusal(source=source)
    assert "lies outside" in said or "Is a directory" in said or "not a regular file" in said


def test_a_link_that_stays_inside_is_followed(gate: Gate) -> None:
    (gate.sources / "link.png").symlink_to(gate.sources / "good.png")
    assert not isinstance(gate.outcome(source="link.png"), Refused)


@pytest.mark.parametrize("text", ["a\0.png", "loop/a.png", "a" * 300 + ".png", "a/" * 3000 + "a.png"])
def test_a_path_that_cannot_be_is_refused(gate: Gate, text: str) -> None:
    (gate.sources / "loop").symlink_to(gate.sources / "loop")
    (gate.results / "loop").symlink_to(gate.results / "loop")
    for outcome in (gate.outcome(source=text), gate.outcome(target=text)):
        assert isinstance(outcome, Refused), outcome
    assert [path.name for path in gate.results.iterdir()] == ["loop"]


def test_a_pipe_does_not_hold_the_slot(gate: Gate) -> None:
    os.mkfifo(gate.sources / "pipe")
    assert "not a regular file" in gate.refusal(source="pipe")


@pytest.mark.parametrize(
    "target", ["../stolen.png", "a/../../stolen.png", "away/stolen.png", "absolute", "..", "", "/"]
)
def test_nothing_outside_is_written(gate: Gate, target: str) -> None:
    (gate.results / "away").symlink_to(gate.folder / "in-private")
    target = str(gate.folder / "stolen.png") if target == "absolute" else target
    outcome = gate.outcome(target=target)
    assert isinstance(outcome, Refused), outcome
    assert not list(gate.folder.rglob("*stolen*"))


def test_a_link_in_the_place_of_the_result_is_replaced_not_followed(gate: Gate) -> None:
    precious = gate.folder / "precious"
    precious.write_bytes(b"precious")
    (gate.results / "out.png").symlink_to(precious)
    assert not isinstance(gate.outcome(), Refused)
    assert precious.read_bytes() == b"precious"
    assert not (gate.results / "out.png").is_symlink()


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"target": "authorized_keys"}, "must end in one of"),
        ({"target": "page.html"}, "must end in one of"),
        ({"target": "a.png", "format": "jpeg"}, "its suffix says png"),
        ({"fit": "cover", "width": 3}, "cover needs width and height"),
    ],
)
def test_what_makes_no_sense_is_refused(gate: Gate, payload: dict[str, Any], why: str) -> None:
    assert why in gate.refusal(**payload)


def test_the_source_is_never_the_target(gate: Gate) -> None:
    settings = {"targets": [str(gate.sources)]}
    assert "it is the source" in gate.refusal(target="good.png", settings=settings)


def test_a_missing_source_is_tried_again(gate: Gate) -> None:
    outcome = gate.outcome(source="later.png")
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "Retry"


def test_a_full_disk_is_tried_again_and_leaves_nothing(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    (gate.results / "out.png").write_bytes(b"the old one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcome = gate.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "Retry"
    assert outcome.error.message == "target: No space left on device"
    assert [path.name for path in gate.results.iterdir()] == ["out.png"]
    assert (gate.results / "out.png").read_bytes() == b"the old one"


def test_a_directory_in_the_place_of_the_result_is_refused(gate: Gate) -> None:
    (gate.results / "out.png").mkdir()
    outcome = gate.outcome()
    assert isinstance(outcome, Refused)
    assert [path.name for path in gate.results.iterdir()] == ["out.png"]
