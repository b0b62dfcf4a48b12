"""What a window counts, and the texts it shows."""

from __future__ import annotations

from serve.watch.events import Event, Seen
from serve.watch.windows import MOST_LABELS, Window


def add(window: Window, text: str, score: float, label: str = "negative") -> None:
    window.add(Event(window.start, text, None, "wire", text), Seen(label, label == "negative", score))


def test_the_most_telling_texts_are_kept_each_once() -> None:
    window = Window(0.0, 60.0)

    for text, score in [("a", 0.2), ("b", 0.9), ("a", 0.95), ("c", 0.5), ("d", 0.1), ("b", 0.3)]:
        add(window, text, score)

    assert [(one["text"], one["score"]) for one in window.texts] == [("a", 0.95), ("b", 0.9), ("c", 0.5)]
    assert window.counts == (6, 6)


def test_two_windows_joined_count_as_one() -> None:
    one, other = Window(0.0, 60.0), Window(60.0, 120.0)
    add(one, "a", 0.9)
    add(other, "b", 0.1, "neutral")

    one.join(other)

    assert (one.end, one.counts, one.labels) == (120.0, (1, 2), {"negative": 1, "neutral": 1})
    assert [text["text"] for text in one.texts] == ["a", "b"]


def test_any_number_of_labels_takes_bounded_room() -> None:
    window = Window(0.0, 60.0)

    for i in range(1000):
        add(window, "x", 0.0, f"label {i}")

    assert (len(window.labels), sum(window.labels.values())) == (MOST_LABELS + 1, 1000)


def test_a_window_survives_being_written_down() -> None:
    window = Window(0.0, 60.0)
    add(window, "a", 0.9)

    assert Window.from_json(window.to_json()) == window
