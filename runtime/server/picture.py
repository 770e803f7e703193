"""A request's picture: a data URL, and the pixels in it."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import DataError
from switchkd.pictures import decode_image
from switchkd.preprocess import Preprocess
from switchkd.runtime.server.limits import Limits, RequestError

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)


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
        if (len(self.url) - head.end()) // 4 * 3 > limits.picture_bytes + 2:  # up to two bytes of it are padding
            message = f"The picture's file is larger than {limits.picture_bytes / 1e6:g} MB."
            raise RequestError(413, message, param=self.place, code="picture_too_large")
        try:
            data = base64.b64decode(self.url[head.end() :].encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise RequestError(400, "The picture's URL isn't valid base64.", param=self.place) from error
        try:
            return preprocess.resize(decode_image(data, formats=PICTURE_FORMATS, max_pixels=limits.picture_pixels))
        except DataError as error:
            raise RequestError(422, str(error), param=self.place, code="invalid_image") from error
