"""Accelerators by name: what is understood, what is refused and with which words."""

import importlib.util

import pytest

from pusa_jax.devices import topologies
from pusa_jax.devices.topologies import CHIPS, local_topology, parse_topology


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [("v5e:4x4", 16, 1), ("v5p:2x2x4", 16, 1), ("tpu7x:2x2x1", 4, 2), ("h200:1", 1, 1)],
)
def test_sizes_give_the_number_of_chips(name, chips, devices):
    topology = parse_topology(name)
    assert (topology.chips, topology.chip.devices) == (chips, devices)


@pytest.mark.parametrize("name", ["v9:2x2", "h900:8", "", "tpu"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match=r"known: .*v6e:AxB.*h100:COUNT") as caught:
        parse_topology(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["v6e:8", "v6e:2x0", "v5p:2x2", "h100", "h100:2x4", "v6e:2x4x"])
def test_sizes_that_do_not_fit_the_chip_show_some_that_do(name):
    family = name.partition(":")[0]
    with pytest.raises(ValueError, match=f"like {family}:"):
        parse_topology(name)


def test_gpus_beyond_one_box_come_in_boxes():
    assert parse_topology("h100:16").chips == 16
    with pytest.raises(ValueError, match="whole boxes of 8"):
        parse_topology("h100:12")


@pytest.mark.parametrize(("name", "module"), [("v6e:2x4", "libtpu"), ("h100:8", "jax_cuda13")])
def test_a_missing_plugin_names_the_extra(name, module, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m: None if m.startswith(module) else find(m)
    )
    extra = "tpu" if module == "libtpu" else "cuda"
    with pytest.raises(ImportError, match=rf"pip install \"pusa_jax\[{extra}\]\""):
        parse_topology(name).devices()


def test_local_is_what_jax_sees():
    topology = local_topology()
    assert topology.is_local and topology.chips == len(topology.devices())
    assert topology.limit is None


def test_a_gpu_gives_what_jax_takes_of_it(monkeypatch):
    memory = CHIPS["h100"].memory
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert parse_topology("h100:8").limit == int(0.75 * memory)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
    assert parse_topology("h100:8").limit == int(0.9 * memory)
    assert parse_topology("v6e:2x4").limit == CHIPS["v6e"].memory


def test_a_device_that_is_here_says_what_it_gives(monkeypatch):
    class Device:
        device_kind, platform = "NVIDIA H200", "gpu"

        def memory_stats(self):
            return {"bytes_limit": 123}

    monkeypatch.setattr(topologies.jax, "devices", lambda: [Device()])
    topology = local_topology()
    assert (topology.limit, topology.chip, topology.chips) == (123, CHIPS["h200"], 1)


def test_planning_for_elsewhere_claims_nothing_here(monkeypatch):
    changed = {}
    monkeypatch.setattr(topologies.jax.config, "update", changed.__setitem__)
    environment = {"XLA_FLAGS": "--xla_dump_to=x"}
    monkeypatch.setattr(topologies.os, "environ", environment)
    topologies.prepare_process(parse_topology("h100:8"))
    topologies.prepare_process(parse_topology("v6e:2x4"))
    assert changed == {"jax_platforms": "cpu"}
    flags = "--xla_dump_to=x --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    assert environment["XLA_FLAGS"] == flags
    assert (
        environment["TPU_SKIP_MDS_QUERY"] == environment["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"
    )
