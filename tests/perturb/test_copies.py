"""A model is copied and pickled while a block is open on it: the copy has no part in the block, then or later."""

import copy
import io
import pickle
from threading import Event

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers
from tests.perturb.models import fingerprint
from tests.perturb.test_contexts import together


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    'deepcopy': copy.deepcopy,
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
    'save': saved,
    'parts': lambda model: nn.ModuleDict({'blocks': nn.ModuleList(map(copy.copy, model.blocks))}),
}
copies = pytest.mark.parametrize('copied', COPIES.values(), ids=COPIES)
SPEC = skip_layers('blocks.0', 'blocks.1')


def keys(model):
    return {name: held.keys() for name, held in fingerprint(model).items()}


@copies
@pytest.mark.parametrize('spec', [SPEC, perturbed_attention('blocks.*.attn')], ids=['skip', 'attention'])
def test_a_copy_made_while_another_thread_perturbs(model, x, copied, spec):
    opened, made = Event(), Event()

    def perturbing():
        with spec.applied(model):
            opened.set()
            assert made.wait(60)

    def copying():
        assert opened.wait(60)
        try:
            return copied(model)
        finally:
            made.set()

    made_copy = together(perturbing, copying)[1]
    assert keys(made_copy) == keys(copied(model))
    for ours, theirs in zip(model.blocks, made_copy.blocks, strict=True):
        torch.testing.assert_close(theirs(x), ours(x))
    assert keys(made_copy) == keys(copied(model))


@copies
def test_a_copy_made_inside_the_block_is_strong_and_can_be_perturbed_itself(model, x, copied):
    right = model.blocks[0](x)
    with SPEC.applied(model):
        made_copy = copied(model)
        assert model.blocks[0](x) is x
        torch.testing.assert_close(made_copy.blocks[0](x), right)
        with SPEC.applied(made_copy):
            assert made_copy.blocks[0](x) is x
    torch.testing.assert_close(made_copy.blocks[0](x), right)
    torch.testing.assert_close(model.blocks[0](x), right)
    assert keys(made_copy) == keys(copied(model))


@copies
def test_a_forward_of_the_instance_is_copied_with_it(model, x, copied):
    model.blocks[0].forward = torch.neg
    with SPEC.applied(model):
        assert copied(model).blocks[0].__dict__['forward'] is torch.neg
        assert '__getstate__' not in copied(model).blocks[0].__dict__


class OwnState(nn.Linear):
    """A layer that decides itself what is copied of it."""

    def __getstate__(self):
        return (self.in_features, dict(self.__dict__))

    def __setstate__(self, state):
        self.__dict__.update(state[1])


class OwnCopy(nn.Linear):
    """A layer that copies its `__dict__` as it is."""

    def __deepcopy__(self, memo):
        made = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


@pytest.mark.parametrize('cls', [OwnState, OwnCopy])
def test_a_layer_that_copies_itself_its_own_way(cls, x):
    model = nn.Sequential(cls(16, 16))
    with skip_layers('0').applied(model):
        made_copy = copy.deepcopy(model)
        with skip_layers('0').applied(made_copy):
            assert made_copy[0](x) is x
        torch.testing.assert_close(made_copy[0](x), nn.functional.linear(x, model[0].weight, model[0].bias))
        with torch.no_grad():
            made_copy[0].weight.zero_()
        torch.testing.assert_close(made_copy[0](x), made_copy[0].bias.expand(2, 5, 16))


class OwnShallowCopy(nn.Linear):
    """A layer whose copies begin with its own `__dict__`, as the replicas of `nn.DataParallel` do."""

    def __copy__(self):
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made


def test_what_a_copy_took_along_is_not_its_own(x):
    model = nn.Sequential(OwnShallowCopy(16, 16))
    with skip_layers('0').applied(model):
        made_copy = nn.Sequential(copy.copy(model[0]))
        with skip_layers('0').applied(made_copy):
            assert made_copy[0](x) is x
    assert 'forward' not in made_copy[0].__dict__
    assert 'forward' not in model[0].__dict__
