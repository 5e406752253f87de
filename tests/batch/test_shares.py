"""Which process makes which job."""

import pytest

from pusa_jax.batch import shares


def test_a_share_is_written_as_one_of_many():
    assert shares.parse_shard("2/4") == (2, 4)
    for text in ("0/4", "5/4", "4", "1/0", "-1/2", "a/b", "1/2/3", ""):
        with pytest.raises(ValueError, match="written as 1/4"):
            shares.parse_shard(text)


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, (1, 1)),
        ({"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "2"}, (1, 2)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (4, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (1, 1)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3)),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, (3, 3)),
    ],
)
def test_processes_started_together_know_their_shares(environment, share):
    assert shares.share_of(environment) == share


def test_a_process_begins_with_its_own_share_and_goes_on_with_the_others():
    jobs = [*"abcdefg"]
    assert shares.in_turn(jobs, (2, 3)) == (["b", "e"], [*"gfdca"])
    together = [shares.in_turn(jobs, (i, 3))[0] for i in (1, 2, 3)]
    assert sorted(job for share in together for job in share) == jobs
    assert shares.in_turn(jobs, (1, 1)) == (jobs, [])


def test_a_job_is_one_process_s_at_a_time(tmp_path):
    with shares.claimed(tmp_path, "a") as ours, shares.claimed(tmp_path, "a") as again:
        assert ours and not again
        with shares.claimed_all(tmp_path, ["a", "b"]) as some:
            assert some == {"b"}
    with shares.claimed(tmp_path, "a") as ours:
        assert ours
    assert not [*tmp_path.iterdir()]


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    (tmp_path / shares.LOCKS).mkdir()
    (tmp_path / shares.LOCKS / "a").touch()
    shares.tidy(tmp_path)
    assert not [*tmp_path.iterdir()]
