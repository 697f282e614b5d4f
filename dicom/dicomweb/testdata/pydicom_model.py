"""Says what pydicom makes of DICOM files: one path a line in, one JSON object a line out.

model:  the DICOM JSON model without pixel data, everything inline
frames: for each frame the first 16 hexadecimal digits of the SHA-256 of its bytes, little endian
"""
import hashlib
import json
import sys
import warnings

import pydicom
from pydicom.encaps import generate_pixel_data_frame

warnings.simplefilter("ignore")


def swapped(b, width):
    out = bytearray(len(b))
    for i in range(width):
        out[i::width] = b[width - 1 - i :: width]
    return bytes(out)


def frames(ds):
    if "PixelData" not in ds:
        return None
    element = ds["PixelData"]
    n = int(ds.get("NumberOfFrames", 1) or 1)
    value = element.value
    if element.is_undefined_length:
        parts = list(generate_pixel_data_frame(value, n))
    else:
        if ds.is_little_endian is False and element.VR == "OW":
            value = swapped(value, 2)
        bits = ds.Rows * ds.Columns * ds.get("SamplesPerPixel", 1) * ds.BitsAllocated
        if ds.get("PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        if bits % 8:
            return None
        size = bits // 8
        parts = [value[i * size : (i + 1) * size] for i in range(n)]
    return [hashlib.sha256(p).hexdigest()[:16] for p in parts]


for line in sys.stdin:
    path = line.rstrip("\n")
    said = {"path": path}
    try:
        ds = pydicom.dcmread(path, force=True)
        try:
            said["frames"] = frames(ds)
        except Exception as e:
            said["frames_error"] = repr(e)
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if keyword in ds:
                del ds[keyword]
        said["model"] = ds.to_json_dict(bulk_data_threshold=1 << 60, suppress_invalid_tags=True)
        said["little"] = bool(ds.is_little_endian)
        text = json.dumps(said)
    except Exception as e:
        text = json.dumps({"path": path, "error": repr(e)})
    print(text, flush=True)
