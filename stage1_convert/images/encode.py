"""RGB pixels in; a JPEG or PNG file out."""

import cv2

from common.lerobot.images import Image


def encode(image: Image, file_format: str, quality: int = 95) -> bytes:
    """Return an RGB image (height, width, 3) as a file: jpeg with 4:2:0 chroma at `quality`, or png."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if file_format == "png":
        return cv2.imencode(".png", bgr)[1].tobytes()
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])[1].tobytes()
