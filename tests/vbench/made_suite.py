"""A list of the form and counts of VBench-I2V's, and images for it."""

import json

from PIL import Image

from pusa_jax.vbench.suite import COUNTS

MOTIONS = [f"camera {m}" for m in ("pans left", "pans right", "tilts up", "tilts down")]
MOTIONS += ["camera zooms in", "camera zooms out", "camera static"]


def rows():
    """1,118 rows on 355 images, as VBench has them."""
    made = []
    for i in range(COUNTS["i2v_background"]):
        text = f"a view of place {i}, it's wide-open"
        about = ["i2v_background", "background_consistency", "aesthetic_quality"]
        made.append({"prompt_en": text, "dimension": about, "image_name": f"{text}.jpg"})
        for motion in MOTIONS:
            moved = {"prompt_en": f"{text}, {motion}", "dimension": ["camera_motion"]}
            made.append(moved | {"image_name": f"{text}.jpg"})
    for i in range(COUNTS["i2v_subject"]):
        text = f"an animal {i} looks up"
        about = ["i2v_subject", "dynamic_degree"]
        made.append({"prompt_en": text, "dimension": about, "image_name": f"{text}.jpg"})
    return made


def written(folder, changed=None):
    """The file of the list."""
    path = folder / "vbench2_i2v_full_info.json"
    path.write_text(json.dumps(rows() if changed is None else changed))
    return path


def images(folder, size=(32, 18)):
    """The images of the list, cropped to 16-9."""
    top = folder / "data" / "crop" / "16-9"
    top.mkdir(parents=True)
    first = top / rows()[0]["image_name"]
    Image.new("RGB", size, (200, 30, 30)).save(first)
    for row in rows():
        if not (top / row["image_name"]).exists():
            (top / row["image_name"]).hardlink_to(first)
    return top
