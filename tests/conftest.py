"""Strict flags for the whole suite, and the options and closing table of the parity tests."""

import gc
import os
import signal
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Compiling is most of the suite's time; unoptimised programs are as exact and compile faster.
# The last flag halves it once more; releases after 0.10 do not know it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

# A suite that runs in the background ignores some, and so would the commands that it starts.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

import jax  # noqa: E402
import pytest  # noqa: E402

from pusa_jax.devices.compile_cache import keep_compiled  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
    """Programs compiled once serve all workers and child processes, and go with the files.

    Runs that share a folder, as those of tests/mutants do, name it as JAX does.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder / "programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        keep_compiled(folder)
        yield folder


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Programs of a file are dropped behind it: a worker would grow to gigabytes otherwise."""
    yield
    jax.clear_caches()
    gc.collect()


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        action="append",
        default=None,
        help="folder of golden files (may be repeated); default: ../shared/golden or tests/golden",
    )
    parser.addoption(
        "--parity-table", default=None, help="also write the parity table to this file"
    )


def pytest_terminal_summary(terminalreporter, config):
    rows: dict[tuple, list[float]] = {}
    uncovered: dict[str, int] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "comparison":
                kind, error, limit, unit = value
                rows.setdefault((kind, limit, unit), []).append(error)
            elif name == "not covered":
                uncovered |= value
    if not rows:
        return
    lines = ["| kind | comparisons | worst error | limit | unit |", "|---|---|---|---|---|"]
    for (kind, limit, unit), errors in sorted(rows.items()):
        lines.append(f"| {kind} | {len(errors)} | {max(errors):.2g} | {limit:g} | {unit} |")
    for kind, n in sorted(uncovered.items()):
        lines.append(f"| {kind} | {n} cases | not covered | - | - |")
    terminalreporter.section("parity with recorded reference outputs (float32 unless said)")
    for line in lines:
        terminalreporter.write_line(line)
    if target := config.getoption("--parity-table"):
        Path(target).write_text("\n".join(lines) + "\n")
