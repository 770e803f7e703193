"""VQA's normalisation against answers worked out by hand, step by step."""

import pytest

from switchkd.vqa import normalise


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red Car.", "red car"),
        ("A  bus\n", "bus"),
        ("a\tb", "b"),
        # Number words, none among them; eleven isn't.
        ("two", "2"),
        ("None", "0"),
        ("Zero or ten, not eleven", "0 or 10 not eleven"),
        # Full stops go unless a digit follows.
        ("0.5", "0.5"),
        ("5.", "5"),
        ("p.m.", "pm"),
        (".5", ".5"),
        # A mark between letters becomes a space; beside a space it goes everywhere.
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("red/blue", "red blue"),
        ("yes,it is", "yes it is"),
        ("Yes, it is", "yes it is"),
        ("is it?yes", "is it yes"),
        ("no sign!", "no sign"),
        ("(left) side", "left side"),
        # Another mark's space doesn't count.
        ("red/blue, t-shirt", "red blue t shirt"),
        # A comma between digits lets every mark go without a space.
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),
        # Apostrophes and colons stay; contractions get theirs back.
        ("5:30", "5:30"),
        ("Dont walk", "don't walk"),
        ("don't walk", "don't walk"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("twas oclock", "'twas o'clock"),
        ("hell its ill well were im ive lets", "hell its ill well were im ive lets"),
        ("somebody'd", "somebodyd"),
        ("", ""),
        ("the", ""),
    ],
)
def test_normalisation(answer, expected):
    assert normalise(answer) == expected
