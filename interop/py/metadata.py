"""Compares DICOM JSON metadata with what pydicom reads in the file.

    metadata.py FILE METADATA.json [FILE METADATA.json ...]

Prints one line a difference and exits 1 if there is one. Left out: values
that the metadata gives as bulk data or binary, group lengths, private
elements, and the character set itself (JSON has one of its own).
"""

import json
import sys
import warnings

import pydicom

warnings.simplefilter("ignore")
BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW", "US or SS", "US or OW", "US or SS or OW"}


def plain(value):
    """A value as text, and a list of values where there are several."""
    if value is None:
        return ""
    if isinstance(value, (pydicom.multival.MultiValue, list)):
        return [plain(v) for v in value]
    if isinstance(value, (pydicom.valuerep.DSfloat, pydicom.valuerep.IS, float, int)):
        return float(value)
    return str(value).rstrip(" \0")


def compare(where, want, got, differences):
    for element in want:
        tag = element.tag
        if tag.is_private or tag.element == 0 or tag == 0x00080005 or element.VR in BINARY:
            continue
        path = f"{where}/{tag}"
        if tag not in got:
            differences.append(f"{path}: missing")
            continue
        other = got[tag]
        if element.VR == "SQ":
            if len(element.value) != len(other.value):
                differences.append(f"{path}: {len(other.value)} items, want {len(element.value)}")
                continue
            for i, item in enumerate(element.value):
                compare(f"{path}[{i}]", item, other.value[i], differences)
        elif plain(element.value) != plain(other.value):
            differences.append(f"{path} {element.VR}: {plain(other.value)!r}, want {plain(element.value)!r}")
    for element in got:
        if element.tag not in want and element.tag != 0x00080005 and not 0x00080054 <= element.tag <= 0x00080056:
            # What a server may add: Retrieve AE Title, Availability, Retrieve URL.
            if element.tag not in (0x00081190,):
                differences.append(f"{where}/{element.tag}: not in the file")


def check(file, metadata):
    want = pydicom.dcmread(file)
    want.decode()
    with open(metadata, encoding="utf-8") as f:
        datasets = json.load(f)
    if not isinstance(datasets, list) or len(datasets) != 1:
        return [f"{len(datasets)} datasets, want 1"]
    got = pydicom.Dataset.from_json(datasets[0], lambda tag, vr, uri: None)
    got = pydicom.Dataset({t: e for t, e in got.items() if t.group != 2})
    differences = []
    compare("", want, got, differences)
    return differences


def main():
    arguments = sys.argv[1:]
    found = False
    for file, metadata in zip(arguments[::2], arguments[1::2]):
        for difference in check(file, metadata):
            found = True
            print(f"{file}: {difference}")
    sys.exit(1 if found else 0)


main()
