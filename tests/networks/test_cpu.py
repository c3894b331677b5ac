"""What torch keeps for a whole process comes back when cristae has computed."""

import torch
from tests.programs import run

from cristae.networks.cpu import cpu_prepared
from cristae.networks.device import devices_prepared


def test_threads_come_back():
    before = torch.get_num_threads()
    with cpu_prepared(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    try:
        with devices_prepared([torch.device("cpu")], before + 1):
            raise KeyError
    except KeyError:
        assert torch.get_num_threads() == before


def test_the_environment_stays_as_it_was():
    done = run(
        "import os; before = dict(os.environ)\n"
        "import cristae.networks.cpu\n"
        "print(before == dict(os.environ))"
    )
    assert done.stdout.split() == ["True"], done.stderr
