"""The normalisation of answers in VQA's official evaluation (Antol et al. 2015, Goyal et al. 2017). Standard library only."""

from __future__ import annotations

import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")  # the official pattern means to look at the digit before it too, and doesn't
_ARTICLES = {"a", "an", "the"}
_NUMBERS = "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905 - reads better than a list
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}

# Words that are known again with an apostrophe missing. Not among them, as they are words without one: he'll, I'll, it's,
# let's, she'd, she'll, she's, we'd, we'll, we're. The official list has I'd've, I'm and I've, but in capitals, which never match.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


_REPAIRED = {broken: word for word in _CONTRACTIONS for broken in _without_one_apostrophe(word)}
_REPAIRED["somebody'd"] = "somebodyd"  # the official list has these two the wrong way round


def normalise(answer: str, *, articles: bool = False) -> str:
    """An answer as VQA's official evaluation compares it, step by step:

    1. Line breaks and tabs become spaces, and the answer is stripped.
    2. Each punctuation mark becomes a space; but it goes without one if anywhere in the answer a space stands beside such a
       mark, or if anywhere a comma stands between digits. Apostrophes and colons stay.
    3. A full stop goes unless a digit follows it.
    4. Lower case; "none" and the words for 0 to 10 become digits; articles go; contractions get a missing apostrophe back.

    Args:
        articles: keep them, other than the official evaluation.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands, cleaned = _THOUSANDS.search(text), text
    for mark in _MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside or thousands else " ")
    words = [_NUMBER_WORDS.get(word, word) for word in _FULL_STOP.sub("", cleaned).lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if articles or word not in _ARTICLES)
