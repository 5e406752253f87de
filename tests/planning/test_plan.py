"""Plans: what a report says, which mesh is recommended, exit codes and one-line errors."""

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments import plan_table, train_plan_table
from pusa_jax.cli.plan import add_plan_arguments
from pusa_jax.cli.run_flags import parse
from pusa_jax.devices import topologies
from pusa_jax.devices.topologies import CHIPS, Chip, Topology, local_topology, parse_topology
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.step import prepare_prompts
from pusa_jax.models import families
from pusa_jax.models.families import preset
from pusa_jax.models.family import Preset
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.family import WAN21, WAN22
from pusa_jax.models.wan.flops import text_encoder_flops, text_flops, tokens, velocity_flops
from pusa_jax.planning import inference, report
from pusa_jax.planning.collectives import Traffic
from pusa_jax.testing import published

TINY = Preset(
    family=WAN21,
    dit=published.DIT,
    vae=published.VAE,
    text=dataclasses.replace(published.TEXT, vocab=64),
)
SMALL = SamplingConfig(height=64, width=96, num_frames=9)
RUN = inference.Run(name="tiny", preset=TINY, settings=SMALL)
SIZES = ["--height", "64", "--width", "96", "--num_frames", "9"]


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setitem(families.PRESETS, "tiny", TINY)


@pytest.fixture(scope="module")
def planned():
    return inference.plan_inference(RUN, local_topology(), {"data": 2, "context": 4})


def run(*argv):
    parser = argparse.ArgumentParser("pusa-jax plan")
    add_plan_arguments(parser)
    args = parser.parse_args(["infer", *argv])
    return args.run(args)


@pytest.mark.parametrize(
    ("name", "size", "count", "teraflops"),
    [
        ("wan2.1-t2v-1.3b", (480, 832), 32760, 283.0),
        ("wan2.1-t2v-1.3b", (720, 1280), 75600, 1249.8),
        ("wan2.1-t2v-14b", (480, 832), 32760, 1678.4),
        ("wan2.1-t2v-14b", (720, 1280), 75600, 6523.4),
        ("wan2.2-t2v-a14b", (720, 1280), 75600, 6523.4),
        ("wan2.2-ti2v-5b", (704, 1280), 18480, 290.5),
    ],
)
def test_flops_are_those_of_the_fact_sheet(name, size, count, teraflops):
    settings = SamplingConfig(height=size[0], width=size[1])
    run = inference.Run(name=name, preset=preset(name), settings=settings)
    once = velocity_flops(run.dit, run.latent_shape, timesteps=1) + text_flops(run.dit)
    assert tokens(run.dit, run.latent_shape) == count
    assert round(once / 1e12, 1) == teraflops
    assert round(text_encoder_flops(TextConfig()) / 1e12, 1) == 4.8
    per_frame = velocity_flops(run.dit, run.latent_shape)
    assert 1 < per_frame / velocity_flops(run.dit, run.latent_shape, timesteps=1) < 1.00001


def changed(**settings):
    return dataclasses.replace(RUN, settings=dataclasses.replace(SMALL, **settings))


def test_a_run_that_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="height must be divisible by 16, got 100"):
        _ = changed(height=100).latent_shape
    with pytest.raises(ValueError, match="4k"):
        _ = changed(num_frames=8).latent_shape


def test_memory_is_what_the_compiled_program_holds(planned):
    mesh = inference.make_mesh({"data": 2, "context": 4}, jax.devices())
    arguments = report.bytes_per_device(inference.abstract_step(RUN, mesh))
    assert planned.argument_bytes == arguments
    parts = planned.argument_bytes + planned.output_bytes + planned.temporary_bytes
    assert parts <= planned.peak_bytes <= parts * 1.1 + 2**20
    assert planned.limit_bytes is None and planned.fits


@pytest.mark.parametrize("sizes", [{"data": 2, "context": 4}, {"context": 4, "tensor": 2}])
def test_prompts_lie_where_the_pipeline_puts_them(sizes):
    mesh = inference.make_mesh(sizes, jax.devices())
    dit, texts, *_ = inference.abstract_step(RUN, mesh)
    config = RUN.dit
    text = jax.ShapeDtypeStruct((1, config.text_len, config.text_dim), jnp.bfloat16)
    with jax.set_mesh(mesh):
        prepare = jax.jit(prepare_prompts, static_argnums=0)
        projected = prepare.lower(WAN21, dit, (text, text)).compile()
    for wanted, shape, found in zip(
        texts, projected.out_info, projected.output_shardings, strict=True
    ):
        assert shape.shape == wanted.shape
        assert found.is_equivalent_to(wanted.sharding, len(shape.shape))


@pytest.mark.parametrize("stage", ["text", "decode"])
def test_other_stages_have_the_dit_beside_them(stage):
    planned = inference.STAGES[stage](RUN, local_topology(), {"data": 2, "context": 4})
    mesh = inference.make_mesh({"data": 2, "context": 4}, jax.devices())
    assert planned.resident_bytes == report.bytes_per_device(inference.abstract_dit(RUN, mesh))
    assert planned.peak_bytes > planned.resident_bytes + planned.argument_bytes
    assert "resident" in planned.text() and planned.model_flops > 0


@pytest.fixture(scope="module")
def two_experts():
    """Plans of a model with two experts: one on the chips, both there."""
    run = dataclasses.replace(RUN, preset=dataclasses.replace(TINY, family=WAN22))
    return {
        resident: inference.plan_inference(
            dataclasses.replace(run, resident=resident), local_topology(), {"data": 2, "context": 4}
        )
        for resident in ("one", "all")
    }


def test_an_expert_that_waits_on_the_chips_counts_with_its_prompts(planned, two_experts):
    one, both = two_experts["one"], two_experts["all"]
    assert (one.resident_bytes, one.peak_bytes) == (0, planned.peak_bytes)
    mesh = inference.make_mesh({"data": 2, "context": 4}, jax.devices())
    dit, prompts, *_ = inference.abstract_step(RUN, mesh)
    assert both.resident_bytes == report.bytes_per_device((dit, prompts)) > 0
    assert both.peak_bytes == one.peak_bytes + both.resident_bytes
    assert "one of 2 experts on the chips" in one.program
    assert "all of 2 experts on the chips" in both.program
    assert "experts" not in planned.program


def test_both_experts_wait_beside_the_text_encoder():
    run = dataclasses.replace(RUN, preset=dataclasses.replace(TINY, family=WAN22), resident="all")
    planned = inference.plan_text(run, local_topology(), {"context": 8})
    mesh = inference.make_mesh({"context": 8}, jax.devices())
    assert planned.resident_bytes == 2 * report.bytes_per_device(inference.abstract_dit(run, mesh))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wan2.1-t2v-14b", "720x1280, 81 frames"),
        ("wan2.2-t2v-a14b", "720x1280, 81 frames"),
        ("wan2.2-ti2v-5b", "704x1280, 121 frames"),
    ],
)
def test_a_model_is_planned_at_its_own_size(monkeypatch, capsys, name, size):
    seen = []

    def plan(run, topology, shape):
        seen.append(run)
        return on(CHIPS["v6e"])

    monkeypatch.setitem(inference.STAGES, "denoise", plan)
    assert run("--preset", name, "--mesh", "data=1", "--resident", "all", "--json") == 0
    assert seen[0].resident == "all" and f"{name}, {size}" in str(seen[0])
    assert run("--preset", name, "--mesh", "data=1", "--width", "640", "--json") == 0
    assert seen[1].resident == "one" and seen[1].settings.width == 640


def test_work_is_shared_out_over_the_chips(planned):
    assert planned.model_flops == pytest.approx(RUN.step_flops / 8)
    wide = inference.make_mesh({"data": 8}, jax.devices())
    assert (
        inference._sharers(RUN, wide) == 2
        and inference._sharers(changed(guidance_scale=1.0), wide) == 1
    )
    assert changed(guidance_scale=1.0).step_flops == RUN.step_flops / 2


def test_attention_exchanges_heads_in_every_layer(planned):
    assert planned.traffic["all-to-all"].count >= 4 * TINY.dit.num_layers
    assert planned.traffic["all-to-all"].bytes > 0


def on(chip, **changes):
    """A report as it would be for another chip."""
    values = {
        "program": "p",
        "topology": Topology(name="t", chip=chip, shape=(4,), limit=chip.memory),
        "mesh": {"data": 1, "context": 4, "tensor": 1},
        "argument_bytes": 2**30,
        "output_bytes": 0,
        "temporary_bytes": 2**30,
        "peak_bytes": 2 * 2**30,
        "model_flops": 918e12,
        "traffic": {"all-to-all": Traffic(count=3, bytes=200 * 10**9)},
        "compile_seconds": 1.0,
    }
    return report.Report(**(values | changes))


def test_roofline_is_the_longest_of_its_parts():
    roofline = on(CHIPS["v6e"]).roofline
    assert (roofline.compute, roofline.link) == (1.0, 0.5)
    assert (roofline.seconds, roofline.bound) == (1.0, "compute")
    slow = dataclasses.replace(CHIPS["v6e"], link=1e9)
    assert on(slow).roofline.bound == "link"
    assert on(Chip(platform="cpu", kind="cpu")).roofline is None


def test_verdict_compares_with_what_the_chip_has():
    assert on(CHIPS["v6e"]).fits
    small = dataclasses.replace(CHIPS["v6e"], memory=2**30)
    assert not on(small).fits and on(small).margin_bytes == -(2**30)
    assert "does NOT fit: 1.00 GiB too much" in on(small).text()


def test_a_program_the_compiler_refuses_for_lack_of_memory_is_reported(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (51.50G) exceeds available HBM (31.25G)."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    topology = parse_topology("v6e:2x4")
    monkeypatch.setattr(Topology, "devices", lambda self: jax.devices())
    refused = inference.plan_inference(RUN, topology, {"context": 8})
    assert not refused.fits and refused.peak_bytes == int(51.5 * 2**30)
    assert json.loads(json.dumps(refused.record()))["temporary_bytes"] is None
    assert "does NOT fit" in refused.text()


def test_other_compiler_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed after 12 bytes")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Mosaic"):
        inference.plan_inference(RUN, local_topology(), {"context": 8})


def test_sensible_meshes_use_every_device():
    for devices, heads, guided in [(1, 40, True), (8, 40, True), (8, 12, False), (16, 40, True)]:
        shapes = list(inference.sensible_meshes(devices, heads, guided))
        assert shapes and len({tuple(shape.items()) for shape in shapes}) == len(shapes) <= 4
        for shape in shapes:
            assert shape["data"] * shape["context"] * shape["tensor"] == devices
            assert heads % shape["tensor"] == 0 and (guided or shape["data"] == 1)


def test_recommended_fits_and_is_quick_and_small():
    quick = {"model_flops": 1e12}
    best = on(CHIPS["v6e"], **quick, peak_bytes=2**30)
    others = [
        on(CHIPS["v6e"], **quick, peak_bytes=2**40),
        on(CHIPS["v6e"]),
        on(CHIPS["v6e"], **quick),
    ]
    assert min([*others, best], key=inference._cost) is best


def test_json_is_one_object_on_stdout(tiny_preset, capsys):
    assert run("--preset", "tiny", *SIZES, "--mesh", "data=2,context=4", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["peak_bytes"] > printed["argument_bytes"] > 0
    assert printed["mesh"] == {"data": 2, "context": 4, "tensor": 1}


def test_without_a_mesh_several_are_tried_and_one_is_recommended(tiny_preset, capsys, monkeypatch):
    two = [{"data": 8}, {"data": 2, "context": 4}]
    monkeypatch.setattr(inference, "sensible_meshes", lambda *sizes: two)
    assert run("--preset", "tiny", *SIZES, "--json") == 0
    out = capsys.readouterr()
    printed = json.loads(out.out)
    assert len(printed["tried"]) == out.err.count("GiB per chip") == 2
    assert printed["peak_bytes"] == min(t["peak_bytes"] for t in printed["tried"])


def test_exit_code_says_that_it_does_not_fit(tiny_preset, capsys, monkeypatch):
    small = dataclasses.replace(local_topology(), limit=1000)
    monkeypatch.setattr(topologies, "parse_topology", lambda name: small)
    assert run("--preset", "tiny", *SIZES, "--mesh", "data=2,context=4") == 3
    assert "does NOT fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--topology", "v9:2x2"], "known: "),
        (["--mesh", "data=2,context=3"], "needs 6 devices, there are 8"),
        (["--mesh", "rows=2"], "the axes are"),
        (["--mesh", "context=8", "--height", "65"], "divisible by 16"),
        (["--mesh", "context=8", "--num_frames", "80"], "4k"),
        (["--mesh", "tensor=8"], "heads"),
        (["--preset", "wan9"], "unknown preset"),
    ],
)
def test_questions_without_sense_get_one_line(tiny_preset, flags, words):
    with pytest.raises(ValueError, match=words) as caught:
        run("--preset", "tiny", *SIZES, *flags)
    assert "\n" not in str(caught.value)


def test_bytes_per_device_counts_what_is_cut_once():
    mesh = inference.make_mesh({"context": 8}, jax.devices())
    cut = jax.NamedSharding(mesh, jax.P("context"))
    whole = jax.NamedSharding(mesh, jax.P())
    tree = [
        jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=cut),
        jax.ShapeDtypeStruct((3,), jnp.bfloat16, sharding=whole),
    ]
    assert report.bytes_per_device(tree) == 2 * 4 * 4 + 6


ELSEWHERE = """
import argparse, sys
from pusa_jax.cli.plan import add_plan_arguments
from pusa_jax.cli.run_flags import parse
import dataclasses
from pusa_jax.models import families
from pusa_jax.models.wan.config import DiTConfig
families.PRESETS["tiny"] = dataclasses.replace(families.preset("wan2.1-t2v-14b"), dit=DiTConfig(
    dim=512, ffn_dim=1024, num_heads=4, num_layers=2, text_dim=32, text_len=32, freq_dim=64))
parser = argparse.ArgumentParser()
add_plan_arguments(parser)
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""


@pytest.mark.parametrize(
    ("topology", "plugin"), [("v6e:2x4", "libtpu"), ("h100:8", "jax_cuda13_plugin")]
)
def test_compiles_for_chips_that_are_not_here(topology, plugin):
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    flags = ["infer", "--preset", "tiny", *SIZES, "--mesh", "data=2,context=4", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *flags, "--topology", topology],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["chips"] == 8 and printed["margin_bytes"] > 0
    assert printed["collectives"]["all-to-all"]["count"] >= 4


def test_the_page_of_plans_says_what_was_planned_and_what_was_measured():
    row = plan_table.ROWS[[row.topology for row in plan_table.ROWS].index("h200:1")]
    chip = CHIPS["h200"]
    topology = Topology(name="h200:1", chip=chip, shape=(1,), limit=chip.memory)
    record = on(chip, topology=topology).record()
    bench = {
        "14b-480p": [
            {"who": "matmul", "device": "NVIDIA H200"},
            {"who": "ours", "peak_bytes": 3 * 2**30},
        ]
    }
    page = plan_table.page({"plans": {row.key: record}, "bench": bench})
    line = next(line for line in page.splitlines() if "h200:1" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == [row.model, row.size, row.topology, row.mesh]
    assert (cells[4], cells[6]) == ("2.0", "3.0")
    without = plan_table.page({"plans": {row.key: record}, "bench": {}})
    assert "not measured" in without and "| h200 | 989 |" in without


@pytest.mark.parametrize("row", train_plan_table.ROWS, ids=lambda row: row.key)
def test_rows_of_training_plans_are_runs_whose_batch_fits_their_mesh(row):
    run, topology = parse(row.flags)[0], parse_topology(row.topology)
    mesh = run.mesh.shape(topology.chips * topology.chip.devices)
    assert mesh["context"] == row.context
    assert run.data.batch_size % (mesh["data"] * row.parts) == 0


def test_the_page_of_training_plans_says_what_does_not_fit():
    row = train_plan_table.ROWS[0]
    chip = dataclasses.replace(CHIPS["v5e"], memory=2**30)
    topology = Topology(name=row.topology, chip=chip, shape=(4, 4), limit=2**30)
    record = on(chip, topology=topology).record()
    numbers = {"plans": {row.key: record}, "bench": {}}
    line = next(
        line for line in train_plan_table.page(numbers).splitlines() if f"| {row.run} |" in line
    )
    assert "2.0 (does not fit)" in line and f"| {row.parts} |" in line
