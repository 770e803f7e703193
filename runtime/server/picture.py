"""A request's picture: a data URL, and the pixels in it."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import DataError
from switchkd.pictures import decode_image
from switchkd.preprocess import Preprocess
from switchkd.runtime.server.limits import Limits, RequestError

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
# The media type says nothing: what a picture is, its bytes tell.
_DATA_URL = re.compile(r"data:[^,]*;\s*base64\s*,", re.ASCII | re.IGNORECASE)
_WHITE_SPACE = b" \t\r\n\f"
_ALPHABET = bytes.maketrans(b"-_", b"+/")  # the URL-safe one to the usual one


@dataclass(frozen=True)
class Picture:
    """A picture as it was sent."""

    url: str = field(repr=False)
    place: str  # the request's field that it stands in

    def decode(self, preprocess: Preprocess, limits: Limits) -> NDArray[np.uint8]:
        """The picture in the tower's size, [H, W, 3].

        Args:
            preprocess: the model's.

        Raises:
            RequestError: 400 no data URL, 413 a file too large, 422 a picture that can't be decoded, has too many pixels
                or scans, or is too narrow.
        """
        head = _DATA_URL.match(self.url)
        if head is None:
            message = (
                "A picture comes in the request itself, as a URL like data:image/jpeg;base64,…; nothing is fetched."
            )
            raise RequestError(400, message, param=self.place)
        try:
            text = _plain_base64(self.url[head.end() :])
            if len(text) // 4 * 3 > limits.picture_bytes + 2:  # up to two bytes of it are padding
                message = f"The picture's file is larger than {limits.picture_bytes / 1e6:g} MB."
                raise RequestError(413, message, param=self.place, code="picture_too_large")
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise RequestError(400, "The picture's URL isn't valid base64.", param=self.place) from error
        try:
            return preprocess.resize(decode_image(data, formats=PICTURE_FORMATS, max_pixels=limits.picture_pixels))
        except DataError as error:
            raise RequestError(422, str(error), param=self.place, code="invalid_image") from error


def _plain_base64(text: str) -> bytes:
    """Base64 of any spelling in the usual one: with line breaks, of the URL-safe alphabet, without padding, with escapes
    (`%2B`), as data URLs have it too."""
    plain = text.encode("ascii")
    if b"%" in plain:
        plain = unquote_to_bytes(plain)
    plain = plain.translate(_ALPHABET, _WHITE_SPACE)
    return plain if plain.endswith(b"=") else plain + b"=" * (-len(plain) % 4)
