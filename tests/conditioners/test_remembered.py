"""Conditions of texts that come again: remembered where nothing can have changed, and never stale."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import UsageError
from tests.conditioners.making import KINDS, TEXTS, make, noise
from tests.decorator.models import build
from tests.tiny_models import TinyEncoder

kinds = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture
def counted(monkeypatch):
    """How often the layers of a kind have made conditions."""
    from classifier_free_guidance_pytorch.layers import Concat, CrossAttention, FiLM

    made = []
    for layer in (FiLM, CrossAttention, Concat):
        original = layer.condition
        monkeypatch.setattr(layer, 'condition', lambda self, *a, original=original: made.append(1) or original(self, *a))
    return made


@kinds
def test_texts_that_come_again_cost_nothing(kind, counted):
    conditioner, hiddens = make(kind), noise(3, 6)
    with torch.no_grad():
        first = conditioner(TEXTS)[0](hiddens)
        made = len(counted)
        for _ in range(3):
            torch.testing.assert_close(conditioner(TEXTS)[0](hiddens), first, rtol=0, atol=0)
        assert len(counted) == made == 1
        conditioner(TEXTS[:1])
        assert len(counted) == 2


@kinds
def test_a_sampling_loop_conditions_once(kind, counted):
    model, x = build(kind), noise(3, 6)
    with torch.no_grad():
        for scale in (3.0, 2.0, torch.tensor([1.0, 2.0, 3.0]), 5.0):
            model(x, texts=TEXTS, negative_texts=['grey'], cond_scale=scale)
    assert len(counted) == 2


@kinds
def test_nothing_is_remembered_where_a_gradient_is_wanted(kind, counted):
    conditioner = make(kind)
    for _ in range(2):
        conditioner(TEXTS)[0](noise(3, 6)).sum().backward()
    assert len(counted) == 2
    lacking = [name for name, p in conditioner.named_parameters() if p.grad is None and not name.startswith('null_text')]
    assert lacking == []


def in_place(conditioner):
    with torch.no_grad():
        for weight in conditioner.parameters():
            weight.add_(1.0)


def through_data(conditioner):
    """As EMA implementations write: this counts no version up."""
    for weight in conditioner.parameters():
        weight.data.mul_(-2.0)


def assigned_data(conditioner):
    for weight in conditioner.parameters():
        weight.data = weight.data * -2.0


def one_replaced(conditioner):
    layer = next(m for m in conditioner.conditioners[0].modules() if isinstance(m, nn.Linear))
    layer.weight = nn.Parameter(layer.weight.detach() * -2.0)


def a_module_replaced(conditioner):
    conditioner.conditioners[0] = copy.deepcopy(conditioner.conditioners[0])
    in_place(conditioner.conditioners[0])


def loaded(conditioner):
    conditioner.load_state_dict({name: tensor - 1 for name, tensor in conditioner.state_dict().items()})


def assigned(conditioner):
    conditioner.load_state_dict({name: tensor - 1 for name, tensor in conditioner.state_dict().items()}, assign=True)


def trained(conditioner):
    optimizer = torch.optim.SGD(conditioner.parameters(), lr=0.5)
    conditioner.train()
    with torch.enable_grad():
        conditioner(TEXTS)[0](noise(3, 6)).square().sum().backward()
    optimizer.step()
    conditioner.eval()


def doubled(conditioner):
    conditioner.double().float()
    in_place(conditioner)


CHANGES = (in_place, through_data, assigned_data, one_replaced, a_module_replaced, loaded, assigned, trained, doubled)


@kinds
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode], ids=['no grad', 'inference'])
def test_what_is_remembered_is_never_stale(kind, change, mode):
    conditioner, hiddens = make(kind), noise(3, 6)
    with mode():
        before = [conditioner(texts)[0](hiddens) for texts in (TEXTS, ['grey'])]
        change(conditioner) if mode is torch.no_grad or change is not trained else None
    if mode is torch.inference_mode and change is trained:
        change(conditioner)
    with mode():
        after = [conditioner(texts)[0](hiddens) for texts in (TEXTS, ['grey'])]
    fresh = copy.deepcopy(conditioner)  # remembers nothing
    for texts, old, new in zip((TEXTS, ['grey']), before, after, strict=True):
        torch.testing.assert_close(new, fresh(texts)[0](hiddens).detach())
        assert not torch.allclose(old, new)


@kinds
def test_functional_weights_are_never_mixed_up(kind):
    conditioner, hiddens = make(kind), noise(3, 6)
    other = {name: weight.detach() * -1.5 for name, weight in conditioner.named_parameters()}

    def call():
        return conditioner(TEXTS)[0](hiddens)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conditioner = conditioner

        def forward(self):
            return call()

    wrapped = Wrapped()
    with torch.no_grad():
        own = call()
        swapped = torch.func.functional_call(wrapped, {f'conditioner.{name}': weight for name, weight in other.items()}, ())
        torch.testing.assert_close(call(), own)
    fresh = make(kind)
    fresh.load_state_dict(other, strict=False)
    torch.testing.assert_close(swapped, fresh(TEXTS)[0](hiddens).detach())


@kinds
def test_precision_and_autocast_are_kept_apart(kind):
    conditioner, hiddens = make(kind), noise(3, 6)
    with torch.no_grad():
        plain = conditioner(TEXTS)
        with torch.autocast('cpu', torch.bfloat16):
            low = conditioner(TEXTS)
        again = conditioner(TEXTS)
    floats = [[t.dtype for t in vars(fns[0].condition).values() if t.is_floating_point()] for fns in (plain, low, again)]
    assert floats[0] == floats[2] == [torch.float32] * len(floats[0])
    assert torch.bfloat16 in floats[1]
    conditioner.double()
    with torch.no_grad():
        assert conditioner(TEXTS)[0](hiddens.double()).dtype == torch.float64


@kinds
def test_what_is_remembered_in_inference_mode_meets_gradients_later(kind):
    conditioner, hiddens = make(kind), noise(3, 6).requires_grad_()
    with torch.inference_mode():
        conditioner(TEXTS)
    with torch.no_grad():
        cond_fns = conditioner(TEXTS)
    cond_fns[0](hiddens).sum().backward()
    assert hiddens.grad.any()


@kinds
def test_copies_remember_nothing_and_models_are_freed(kind):
    conditioner = make(kind)
    with torch.no_grad():
        conditioner(TEXTS)
    for other in (copy.deepcopy(conditioner), pickle.loads(pickle.dumps(conditioner))):
        assert other.watch.name != conditioner.watch.name
        in_place(other)
        with torch.no_grad():
            assert not torch.allclose(other(TEXTS)[0](noise(3, 6)), conditioner(TEXTS)[0](noise(3, 6)))
    gone = weakref.ref(conditioner)
    del conditioner, other
    gc.collect()
    assert gone() is None


def test_memory_is_flat_over_changing_texts():
    conditioner = make('film')
    with torch.no_grad():
        for number in range(40):
            conditioner([f'text {number}'])
    assert len(conditioner._conditions._entries) <= 8


def test_two_threads_that_change_texts_get_their_own():
    model, x = build('attention', encoder=TinyEncoder()), noise(3, 6)
    others = ['a red dog', 'two blue squares', 'nothing at all']
    with torch.no_grad():
        expected = {tuple(texts): model(x, texts=texts, cond_scale=3.0) for texts in (TEXTS, others)}
    wrong, start = [], threading.Barrier(2)

    def sample(texts):
        start.wait()
        for _ in range(100):
            with torch.no_grad():
                if not torch.equal(model(x, texts=texts, cond_scale=3.0, guidance=guidance.CFG()), expected[tuple(texts)]):
                    wrong.append(texts)

    threads = [threading.Thread(target=sample, args=(texts,)) for texts in (TEXTS, others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@kinds
def test_another_tensor_in_the_same_memory_is_a_change(kind):
    """On a GPU the address and the version are all that can be compared without a sync: the object itself counts too."""
    conditioner = make(kind)
    before = conditioner.watch.look(conditioner)
    layer = next(module for module in conditioner.conditioners[0].modules() if isinstance(module, nn.Linear))
    layer.weight = nn.Parameter(layer.weight.detach())
    assert conditioner.watch.look(conditioner) == before + 1
    assert conditioner.watch.look(conditioner) == before + 1


class Gate(nn.Module):
    """A parametrization with a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer('factor', torch.ones(()))

    def forward(self, weight):
        return weight * self.factor


def test_buffers_and_parts_count_as_weights():
    """Masks of pruning, parametrizations, spectral norm, a layer in place of another."""
    conditioner, hiddens = make('film'), noise(3, 6)
    layer = conditioner.text_embed_stem_mlp[0]
    torch.nn.utils.parametrize.register_parametrization(layer, 'weight', Gate())

    def changes(change):
        with torch.no_grad():
            before, prepared = conditioner(TEXTS)[0](hiddens), conditioner.prepare(TEXTS)
            change()
            with pytest.raises(UsageError, match='the weights have changed since'):
                conditioner.check_prepared(prepared)
            after = conditioner(TEXTS)[0](hiddens)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, copy.deepcopy(conditioner)(TEXTS)[0](hiddens).detach())

    def new_activation():
        conditioner.text_embed_stem_mlp[1] = nn.Tanh()

    changes(lambda: layer.parametrizations.weight[0].factor.fill_(2.0))
    changes(new_activation)
    torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')
    changes(lambda: prune.l1_unstructured(layer, 'bias', 0.5))
    changes(lambda: layer.bias_mask.zero_())


def test_weights_that_torch_swaps_in_place():
    """As `Module.to` does for sharded and quantised weights; it refuses those to which a weak reference points."""
    conditioner, hiddens = make('film'), noise(3, 6)
    weight = conditioner.text_embed_stem_mlp[0].weight
    with torch.no_grad():
        before = conditioner(TEXTS)[0](hiddens)
        torch.utils.swap_tensors(weight, nn.Parameter(weight * 2))
        after = conditioner(TEXTS)[0](hiddens)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, copy.deepcopy(conditioner)(TEXTS)[0](hiddens).detach())
