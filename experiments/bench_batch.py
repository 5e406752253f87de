"""A batch of many small videos: `python -m experiments.bench_batch --count 1000`.

Videos of three shapes by the tiny model, one step each, as the command line makes them. Says how
many programs of a step were compiled, how much time was spent outside of sampling, how memory grew
from the 100th video to the last, and how long the finished batch takes to be found finished.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = """
import sys
from pusa_jax.inference import pipeline
from pusa_jax.cli.main import main

lowered = []
step = pipeline.jitted_step
pipeline.jitted_step = lambda *given: lowered.append(given) or step(*given)
code = main(sys.argv[1:])
print("programs of a step:", len(lowered), file=sys.stderr)
sys.exit(code)
"""
SHAPES = (5, 9, 13)
"""Frames."""

CAPTIONS = ("a red circle moves right on black", "a blue square moves up on white")
EARLY = 100


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Runs a batch and says what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="videos")
    parser.add_argument("--batch_size", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs, out = Path(folder, "jobs.jsonl"), Path(folder, "out")
        lines = [
            {
                "id": f"{i:05d}",
                "prompt": CAPTIONS[i % 2],
                "num_frames": SHAPES[i % 3],
                "seed": i,
                "output": f"{i:05d}.mp4",
            }
            for i in range(args.count)
        ]
        jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [
            sys.executable, "-c", COMMAND, "batch", str(jobs), "--output", str(out),
            "--num_inference_steps", "1", "--batch_size", str(args.batch_size), "--quiet",
        ]  # fmt: skip
        since = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            early = late = 0
            while child.poll() is None:
                time.sleep(0.2)
                listed = out / "manifest.jsonl"
                done = listed.read_bytes().count(b"\n") if listed.exists() else 0
                try:
                    late = resident(child.pid) or late
                except (OSError, IndexError):  # it has just ended
                    continue
                early = late if done <= EARLY else early
            assert child.stdout is not None
            print(child.stdout.read().strip())
        print(f"all: {time.perf_counter() - since:.1f} s, exit code {child.returncode}")
        mib = 2**20
        print(f"memory: {early / mib:.0f} MiB at video {EARLY}, {late / mib:.0f} MiB at the last")
        since = time.perf_counter()
        subprocess.run(command, check=True)
        print(f"the finished batch again: {time.perf_counter() - since:.1f} s")


if __name__ == "__main__":
    main()
