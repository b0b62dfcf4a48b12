"""The `image_folder` source: one folder per class, image files inside at any depth.

Knows names and bytes; whether the bytes are an image is for the task to say.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.config import ImageFolderSource
from jobs.source_rows import PATH, TEST, TEST_PATH, File, Part, Place, Reading, Row

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_PART_FILES = 512
MAX_PART_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class ImageFiles(Part):
    names: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        system, folder = self.place.folder()
        for name in self.names:
            label = name.split("/")[0] if "/" in name else ""
            row = Row(None, label, self.place.origin(name))
            if not _is_image(name):
                yield row._replace(reason="not_an_image", detail=f"the name ends in none of {', '.join(SUFFIXES)}")
                continue
            try:
                with system.open_input_stream(f"{folder}/{name}", compression=None) as stream:
                    yield row._replace(value=stream.read())
            except OSError as error:
                yield row._replace(reason="unreadable", detail=str(error)[:200])


@dataclass(frozen=True)
class ImageFolder:
    source: ImageFolderSource

    def places(self) -> list[Place]:
        test = self.source.test_path
        return [Place.of(PATH, self.source.path)] + ([Place.of(TEST_PATH, test, TEST)] if test is not None else [])

    def check(self) -> None:
        """Raises DataError when a folder is not there, has no images, or `path` has fewer than two classes."""
        for place in self.places():
            images = [file.name for file in place.files() if _is_image(file.name)]
            classes = sorted({name.split("/")[0] for name in images if "/" in name})
            if place.is_file():
                raise place.error("is a file", "name a folder with one folder per class")
            if not images:
                raise place.error("holds no JPEG or PNG file", "name a folder with one folder of images per class")
            if len(classes) < 2 and not place.split:
                problem = f"has one class only ({classes[0]})" if classes else "has images but no class folders"
                raise place.error(problem, "give each class a folder of its own, at least two")

    def has_test(self) -> bool:
        return self.source.test_path is not None

    def state(self) -> object:
        return [[place.split, *file] for place in self.places() for file in place.files()]

    def read(self) -> Reading:
        parts = [
            ImageFiles(place, len(names), tuple(names)) for place in self.places() for names in _cut(place.files())
        ]
        return Reading(parts=list(parts))


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in SUFFIXES


def _cut(files: list[File]) -> Iterator[list[str]]:
    names: list[str] = []
    num_bytes = 0
    for file in files:
        names.append(file.name)
        num_bytes += file.size
        if len(names) == MAX_PART_FILES or num_bytes >= MAX_PART_BYTES:
            yield names
            names, num_bytes = [], 0
    if names:
        yield names
