"""Sharing networks in memory; the 'meta' device stands in for a second device."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch.text.networks import NetworkBank

CPU, OTHER = torch.device('cpu'), torch.device('meta')


class User:
    """Stands for an encoder."""

    def __init__(self, bank, model='model'):
        self.bank, self.model, self.network, self.loads = bank, model, None, []

    def place(self, device=CPU, dtype=torch.float32):
        self.network = self.bank.place(self, self.network, self.model, device, dtype, self.load)
        return self.network.module

    def load(self, dtype):
        self.loads.append(dtype)
        return nn.Linear(2, 2, dtype=dtype)


@pytest.fixture
def bank():
    return NetworkBank()


def test_two_users_of_one_model_share_one_frozen_network(bank):
    first, second = User(bank), User(bank)
    module = first.place()
    assert second.place() is module
    assert (first.loads, second.loads) == ([torch.float32], [])
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_another_model_is_another_network(bank):
    assert User(bank, 'a').place() is not User(bank, 'b').place()


def test_a_sole_user_takes_its_network_along(bank):
    user = User(bank)
    module = user.place()
    assert user.place(OTHER) is module
    assert module.weight.device == OTHER
    assert len(user.loads) == 1


def test_a_shared_network_never_moves_under_the_feet_of_another(bank):
    first, second = User(bank), User(bank)
    module = first.place()
    second.place()
    assert second.place(OTHER) is not module
    assert module.weight.device == CPU
    assert first.place() is module
    # the first is alone with it now, and joins the second where that went
    assert first.place(OTHER) is second.place(OTHER)


def test_a_change_of_dtype_loads_anew(bank):
    user = User(bank)
    user.place()
    assert user.place(dtype=torch.float16).weight.dtype == torch.float16
    user.place()
    assert user.loads == [torch.float32, torch.float16, torch.float32]


def test_a_network_goes_with_its_last_user(bank):
    first, second = User(bank), User(bank)
    module = weakref.ref(first.place())
    second.place()
    del first
    gc.collect()
    assert module() is not None
    del second
    gc.collect()
    assert module() is None
    assert len(bank._networks) == 0


def test_a_failed_load_leaves_the_user_as_it_was(bank):
    user = User(bank)
    module = user.place()
    user.load = lambda dtype: (_ for _ in ()).throw(OSError('gone'))
    with pytest.raises(OSError, match='gone'):
        user.place(dtype=torch.float16)
    assert user.place() is module


def test_threads_load_a_model_once(bank):
    users = [User(bank) for _ in range(8)]
    barrier = threading.Barrier(len(users))

    def work(user):
        barrier.wait()
        user.place()

    threads = [threading.Thread(target=work, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(user.loads) for user in users) == 1
    assert len({id(user.network.module) for user in users}) == 1
