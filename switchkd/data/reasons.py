"""Why a record can't be used. No torch."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why a record can't be used; stored as one byte, so the numbers stay."""

    USABLE = 0
    TORN_RECORD = 1  # a JSONL line that isn't JSON
    NOT_AN_OBJECT = 2
    NO_CONVERSATION = 3  # no list of turns that can be read
    BAD_TURN_ORDER = 4  # not (system), human, gpt, human, gpt …
    NO_ASSISTANT_TURN = 5  # nothing to learn: no gpt turn, or only empty ones
    IMAGE_MARKER = 6  # `<image>` and "image" disagree: more or fewer markers than pictures
    UNSAFE_TEXT = 7  # not Unicode, or a noncharacter that the prompt reserves
    OUTSIDE_FOLDER = 8  # the picture's path leaves the image folder
    NO_PICTURE = 9  # there is no such file
    TORN_PICTURE = 10  # it can't be decoded
    TOO_LONG = 11  # more tokens than max_length
    UNSUPPORTED_PICTURE = 12  # of a kind that isn't read (HEIC, floating point), too large or too narrow
    OTHER_MEDIA = 13  # a film, a sound, a depth map


PICTURE_REASONS = (Reason.OUTSIDE_FOLDER, Reason.NO_PICTURE, Reason.TORN_PICTURE, Reason.UNSUPPORTED_PICTURE)


class BadRecordError(Exception):
    """A record that can't be used, and why. Counted, never fatal."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
