#!/usr/bin/env python3
"""Makes the pictures of the classifier's tests, and what its model says of them, by Python alone: Pillow decodes
and resizes, onnxruntime computes. Picket's own decoder, resizer and reader of scores have no part in it.

    reference.py pictures            writes picture-*.jpg anew: lines of text, four ways up (needs DejaVu Sans)
    reference.py expected MODEL      writes expected.json from them

Needs requirements.txt. What it writes is kept in the repository, so that a test needs neither.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = pathlib.Path(__file__).resolve().parent
LABELS = ["0", "90", "180", "270"]
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
LINES = ["DELIVERY NOTE 4711", "Gate north, bay 12", "3 pallets, 240 kg", "Seal unbroken", "Checked by the shift", "Keep dry and upright"]


def pictures():
    font = ImageFont.truetype("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", 30)
    for index, (paper, ink) in enumerate([((235, 232, 220), (20, 20, 30)), ((40, 60, 90), (240, 240, 200))]):
        upright = Image.new("RGB", (420, 360), paper)
        draw = ImageDraw.Draw(upright)
        for row, line in enumerate(LINES[index:] + LINES[:index]):
            draw.text((24 + 4 * row, 16 + 56 * row), line, font=font, fill=ink)
        for label in LABELS:
            turned = upright.rotate(-int(label), expand=True)
            turned.save(HERE / f"picture-{index}-{label}.jpg", quality=85)


def shown(path):
    """The picture as the model's own package shows it: the shorter side 256, the middle 224 x 224."""
    picture = Image.open(path).convert("RGB")
    by = 256 / min(picture.size)
    width, height = (round(side * by) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)
    return ((pixels / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)[None]


def expected(model):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = {}
    for path in sorted(HERE.glob("picture-*.jpg")):
        scores = session.run(None, {session.get_inputs()[0].name: shown(path)})[0][0]
        surest = sorted(zip(LABELS, scores.tolist()), key=lambda pair: -pair[1])
        found[path.name] = [{"label": label, "confidence": round(score, 6)} for label, score in surest]
    text = json.dumps(found, indent=1) + "\n"
    (HERE / "expected.json").write_text(text)
    print(text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pictures"]:
            pictures()
        case ["expected", model]:
            expected(model)
        case _:
            sys.exit(__doc__)
