"""Makes this folder from a full set of golden files: python tests/golden/excerpt.py FULL_FOLDER.

Weights are copied; of the others the cases named below are kept, byte for byte, with the header of
the full file (recorded float32-float64 differences, conventions, provenance) and the note that
cases were left out.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

COPIED = (
    "dit_s0.weights.safetensors",
    "dit_s0_pusa.safetensors",
    "dit_s0_base.safetensors",
    "umt5_s0.safetensors",
    "umt5_s0.weights_wan.safetensors",
    "umt5_s0.weights_hf.safetensors",
    "sched_tables.safetensors",
    "sched_misc.safetensors",
    "lora_s0.pusa_v1.safetensors",
    "lora_s0.pusa_v1.pt",
    "lora_s0.comfy_peft_alpha.safetensors",
    "lora_s0.diffusers.safetensors",
    "lora_s0.native_updown.safetensors",
    "ti2v22_s0.weights.safetensors",
    "t5v11_s0.safetensors",
    "t5v11_s0.weights.safetensors",
    "mochi_schedule.safetensors",
)
CASES = {
    "lora_s0_merged.safetensors": (
        "pusa_v1_x1.4", "comfy_peft_alpha_pusa_x1.4", "diffusers_x1.4", "native_updown_x1.4",
    ),
    "e2e_dit_s0.safetensors": ("i2v_s4_cfg3", "v2v_ext_s4_cfg1", "startend_s4_cfg3", "t2v_s4_cfg3"),
    "sched_pusa_traces.safetensors": (
        "i2v_s4_cfg1", "startend_mixed_s4_cfg1", "three_s4_cfg1", "t2v_s4_cfg1",
        "mf_nocond_s4_cfg1",
        "v2v_ext_noisy_s4_cfg1",
    ),
    "solver_traces.safetensors": ("unipc_s4_shift5_cfg1", "unipc_order3_s10", "dpmpp_heun_s10"),
    "train_dit_s0.safetensors": ("full", "lora"),
    "ti2v22_s0.safetensors": ("per_token_padded0", "scalar1"),
}  # fmt: skip


def excerpt(source: Path, target: Path, names: tuple[str, ...]) -> None:
    with safe_open(source, "np") as file:
        meta = file.metadata()
        cases = [case for case in json.loads(meta["cases"]) if case["name"] in names]
        left_out = tuple(
            f"{side}.{case['name']}."
            for case in json.loads(meta["cases"])
            if case["name"] not in names
            for side in ("in", "out")
        )
        kept = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(left_out)}
    meta["cases"] = json.dumps(cases)
    meta["excerpt"] = f"{len(cases)} of the cases of {source.name}; the others were left out"
    save_file(kept, target, meta)


def main(full: Path) -> None:
    here = Path(__file__).parent
    for name in COPIED:
        shutil.copyfile(full / name, here / name)
        (here / name).chmod(0o644)
    for name, cases in CASES.items():
        excerpt(full / name, here / name, cases)
    total = sum(
        path.stat().st_size for path in here.iterdir() if path.suffix in (".safetensors", ".pt")
    )
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
