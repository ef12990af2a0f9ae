"""A module that follows text: what it computes, how it learns, and what it is."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import (
    Part,
    TextConditioned,
    classifier_free_guidance_class_decorator,
    guidance,
    text_conditioned,
)
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import skip_layers
from classifier_free_guidance_pytorch.text import EncoderIdentity, Precomputed
from tests.conditioners.making import noise, randomised
from tests.modules.networks import KINDS, MIXED, TEXTS, Block, Net, following, kinds, of_kind, seeded_net
from tests.tiny_models import TinyEncoder

CALL = {'texts': TEXTS, 'cond_scale': 3.0}


@kinds
@pytest.mark.parametrize('pair', [False, True], ids=['tensors', 'tuples'])
def test_it_starts_as_the_module_it_was(kind, pair):
    net, x = seeded_net(pair=pair).eval(), noise(3, 5, 6)
    expected = net(x)
    model = text_conditioned(net, KINDS[kind], 'film' if kind == 'mixed' else kind, example=x, model_types=[TinyEncoder()])
    for call in ({}, {'texts': TEXTS}, CALL, {**CALL, 'cfg_batched': True}):
        torch.testing.assert_close(model(x, **call), expected, rtol=0, atol=1e-6)


@classifier_free_guidance_class_decorator
class ByHand(Net):
    """What `text_conditioned(net, 'blocks.*')` is, written out."""

    def forward(self, x, cond_fns):
        for block, condition in zip(self.blocks, cond_fns, strict=True):
            x = condition(block(x))
        return self.head(x)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat'])
def test_it_is_what_one_would_write_by_hand(kind):
    model, x = of_kind(kind), noise(3, 5, 6)
    by_hand = seeded_net(
        ByHand, text_condition_type=kind, text_condition_hidden_dims=(6,) * 3, text_condition_model_types=[TinyEncoder()],
        text_condition_hiddens_channel_first=False,
    ).eval()  # fmt: skip
    by_hand.load_state_dict(model.state_dict())
    for call in ({}, {'texts': TEXTS}, CALL, {**CALL, 'negative_texts': ['grey'], 'rescale_phi': 0.5}):
        torch.testing.assert_close(model(x, **call), by_hand(x, **call), rtol=0, atol=0)


@kinds
def test_guidance(kind):
    model, x = of_kind(kind), noise(3, 5, 6)
    cond, null = model(x, texts=TEXTS), model(x)
    assert not torch.allclose(cond, null)
    torch.testing.assert_close(model(x, **CALL), null + 3 * (cond - null), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x, **CALL, cfg_batched=True), model(x, **CALL), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x, text_condition=model.prepare(TEXTS), cond_scale=3.0), model(x, **CALL))
    for row, text in enumerate(TEXTS):  # a sample does not know its batch
        torch.testing.assert_close(model(x[row, None], texts=[text], cond_scale=3.0)[0], model(x, **CALL)[row])


def test_several_kinds_are_each_what_they_are_alone():
    """Of three parts, one of each kind: with the others' layers at their no-op, the model is that of one kind."""
    x = noise(3, 5, 6)
    for kind, alone in (('film', 'blocks.2'), ('attention', 'blocks.0'), ('concat', 'blocks.1')):
        mixed = text_conditioned(seeded_net(), MIXED, example=x, model_types=[TinyEncoder()]).eval()
        single = text_conditioned(seeded_net(), alone, kind, example=x, model_types=[TinyEncoder()]).eval()
        single.text_conditioner.load_state_dict(randomised(mixed.text_conditioner.kinds[kind]).state_dict())
        torch.testing.assert_close(mixed(x, **CALL), single(x, **CALL), rtol=0, atol=0)
        assert not torch.allclose(mixed(x, texts=TEXTS), mixed(x))


def test_several_kinds_encode_once_and_drop_together():
    encoder = TinyEncoder()
    model, x = of_kind('mixed', encoders=[encoder], cond_drop_prob=0.5), noise(3, 5, 6)
    cond, null = model(x, texts=TEXTS), model(x)
    model.train()
    before = encoder.calls
    drawn = [model(x, texts=TEXTS) for _ in range(20)]
    assert encoder.calls - before == 20
    for output in drawn:  # every sample is all conditional or all null, never a mixture of parts
        for row in range(3):
            assert torch.allclose(output[row], cond[row], atol=1e-5) or torch.allclose(output[row], null[row], atol=1e-5)
    assert len({tuple(output[:, 0, 0].tolist()) for output in drawn}) > 2


@kinds
def test_a_training_step_reaches_every_new_weight_and_no_other(kind):
    model = of_kind(kind, cond_drop_prob=0.3).train().only_text_trains()
    new = dict(model.text_conditioner.named_parameters())
    assert {id(p) for p in model.trainable_parameters()} == {id(p) for p in new.values()}
    model(noise(3, 5, 6), texts=TEXTS).square().mean().backward()
    assert [name for name, p in new.items() if p.grad is None] == []
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith('text_conditioner'))


@kinds
@pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'pickle'])
def test_copies_are_equal_and_their_own(kind, copied):
    model, x = of_kind(kind), noise(3, 5, 6)
    expected = model(x, **CALL)
    other = copied(model)
    assert type(other) is type(model)
    torch.testing.assert_close(other(x, **CALL), expected, rtol=0, atol=0)
    randomised(other, seed=5)
    torch.testing.assert_close(model(x, **CALL), expected, rtol=0, atol=0)
    assert not torch.allclose(other(x, **CALL), expected)


def test_it_stays_what_it_was():
    net = seeded_net()
    net.sampling_rate = 7
    keys = list(net.state_dict())
    model = following(net=net)
    assert model is net
    assert isinstance(model, Net)
    assert isinstance(model, TextConditioned)
    assert (type(model).__name__, model.sampling_rate) == ('Net', 7)
    assert [key for key in model.state_dict() if not key.startswith('text_conditioner.')] == keys
    model.load_state_dict(seeded_net().state_dict(), strict=False)
    assert type(model.blocks[0]) is Block
    assert {'x', 'scale', 'texts', 'cond_scale'} <= inspect.signature(model.forward).parameters.keys()


def test_a_part_alone_is_not_conditioned():
    model, x = following(), noise(3, 5, 6)
    expected = model.blocks[0](x)
    model(x, **CALL)
    torch.testing.assert_close(model.blocks[0](x), expected, rtol=0, atol=0)


class Recurrent(nn.Module):
    """One block, several times."""

    def __init__(self):
        super().__init__()
        self.block = Block(6)

    def forward(self, x, times=3):
        for _ in range(times):
            x = self.block(x)
        return x


def test_a_part_that_is_called_several_times():
    model, x = following('block', seeded_net(Recurrent)), noise(3, 5, 6)
    (condition,) = model.text_conditioner(TEXTS)
    expected = x
    for _ in range(3):
        expected = condition(model.block(expected))
    torch.testing.assert_close(model(x, texts=TEXTS), expected)


class Video(nn.Module):
    """Frames `(b, f, d)`, folded into the batch in the middle, `(b * f, d)`."""

    def __init__(self):
        super().__init__()
        self.frames, self.whole = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.whole(self.frames(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


@pytest.mark.parametrize('kind', ['film', 'attention'])
def test_frames_folded_into_the_batch(kind):
    model, x = following({'frames': Part(repeat_batch=5), 'whole': None}, seeded_net(Video), condition=kind), noise(3, 5, 6)
    alone = [model(x[row, None], texts=[text], cond_scale=3.0)[0] for row, text in enumerate(TEXTS)]
    torch.testing.assert_close(model(x, **CALL), torch.stack(alone))
    longer = noise(3, 7, 6)
    alone = [model(longer[row, None], texts=[text], cond_scale=3.0)[0] for row, text in enumerate(TEXTS)]
    torch.testing.assert_close(model(longer, **CALL, repeat_batch=7), torch.stack(alone))
    with pytest.raises(ShapeError, match="at 'frames': 3 texts cannot condition hiddens of batch 21"):
        model(longer, **CALL)


def test_a_weak_pass():
    model, x = following(), noise(3, 5, 6)
    weak = model(x, **CALL, guidance=guidance.CFG() + guidance.Weak(2.0), weak=skip_layers('blocks.1'))
    assert not torch.allclose(weak, model(x, **CALL))


def test_saving_what_was_added(tmp_path):
    model, x = of_kind('mixed'), noise(3, 5, 6)
    model.save_text(tmp_path / 'text.safetensors')
    from safetensors.torch import load_file

    assert {f'text_conditioner.{key}' for key in load_file(tmp_path / 'text.safetensors')} == {
        key for key in model.state_dict() if key.startswith('text_conditioner.')
    }
    fresh = of_kind('mixed', seed=8)
    assert not torch.allclose(fresh(x, **CALL), model(x, **CALL))
    torch.testing.assert_close(fresh.load_text(tmp_path / 'text.safetensors')(x, **CALL), model(x, **CALL), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"is of other parts: at 'blocks.2' it has .*'film'.*, and this Net has None"):
        following({'blocks.0': 'attention', 'blocks.1': 'concat'}).load_text(tmp_path / 'text.safetensors')
    from safetensors.torch import save_file

    save_file({'a': torch.zeros(1)}, tmp_path / 'other.safetensors')
    with pytest.raises(ConfigError, match='was not written by save_text'):
        fresh.load_text(tmp_path / 'other.safetensors')
    (tmp_path / 'words').write_text('no weights')
    with pytest.raises(ConfigError, match='words is not a safetensors file, as save_text writes it'):
        fresh.load_text(tmp_path / 'words')


def test_what_was_added_is_for_one_encoder_and_one_width(tmp_path):
    file = tmp_path / 'text.safetensors'
    x, parts = noise(3, 5, 6), {'at': 'head', 'example': noise(3, 5, 6)}
    encoder = {'dim_pooled': 10, 'dim_latent': 12}
    one, other = (EncoderIdentity('HFTextAdapter', name) for name in ('one', 'other'))
    text_conditioned(Net(), model_types=[Precomputed(**encoder, origin=one)], **parts).save_text(file)
    with pytest.raises(ConfigError, match=r'this model was trained with .*one.*, but its conditioner was built with .*other'):
        text_conditioned(Net(), model_types=[Precomputed(**encoder, origin=other)], **parts).load_text(file)
    wider = text_conditioned(Net(), model_types=[Precomputed(**encoder, origin=one)], text_embed_stem_dim_mult=4, **parts)
    with pytest.raises(
        ConfigError, match=r"has the weight '.*' of shape \(.*\), but this text_conditioner has \(.*build it with"
    ):
        wider.load_text(file)
    fresh = text_conditioned(Net(), model_types=[Precomputed(**encoder, origin=one)], **parts)
    assert fresh.load_text(file) is fresh
    assert fresh.eval()(x).shape == x.shape


Following = text_conditioned(Net, MIXED, example=noise(3, 5, 6), model_types=[TinyEncoder()])


def test_a_class(monkeypatch):
    model, x = Following(6, depth=3), noise(3, 5, 6)
    assert type(model) is Following
    assert issubclass(Following, Net)
    assert str(inspect.signature(Following)) == str(inspect.signature(Net))
    randomised(model)
    model.eval()
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(x, **CALL), model(x, **CALL), rtol=0, atol=0)
    loaded = pickle.loads(pickle.dumps(model))  # its own name is that of the class without text
    assert isinstance(loaded, Net)
    torch.testing.assert_close(loaded(x, **CALL), model(x, **CALL), rtol=0, atol=0)
    monkeypatch.setattr('tests.modules.networks.Net', Following)  # as after `Net = text_conditioned(Net, ...)`
    assert type(pickle.loads(pickle.dumps(model))) is Following
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(x, **CALL), model(x, **CALL), rtol=0, atol=0)


@pytest.mark.parametrize(
    ('module', 'says'),
    [
        (following, 'Net follows text already: name all of its parts at once'),
        (lambda: Following, 'Net follows text already'),
        (lambda: ByHand, 'ByHand follows text already'),
        (lambda: 3, 'text_conditioned is for a torch.nn.Module, or a class of them, but got 3'),
        (lambda: replaced(seeded_net()), 'the forward of this Net was replaced or scripted'),
    ],
)
def test_what_cannot_be_conditioned(module, says):
    with pytest.raises(ConfigError, match=says):
        text_conditioned(module(), 'head', example=noise(3, 5, 6), model_types=[TinyEncoder()])


def replaced(net):
    net.forward = net.head.forward
    return net


def test_arguments_of_the_conditioner():
    model = following(MIXED, condition='film', attn_heads=2, null='zeros', cond_drop_prob=0.25)
    assert model.text_conditioner.kinds['attention'].conditioners[0].attn.heads == 2
    assert model.text_conditioner.cond_drop_prob == 0.25
    with pytest.raises(ConfigError, match="'attn_heads', 'cond_dorp_prob' is no argument of film, which takes cond_drop_prob,"):
        following('head', attn_heads=2, cond_dorp_prob=0.1)
    with pytest.raises(ConfigError, match=r"forward.*takes no|'textz' is no keyword of Net.forward, which takes scale, x, and"):
        model(noise(3, 5, 6), textz=TEXTS)


def test_embeddings_of_one_kind_are_refused_by_several():
    model, x = of_kind('mixed'), noise(3, 5, 6)
    torch.testing.assert_close(model(x, text_embeds=model.encode_texts(TEXTS), cond_scale=3.0), model(x, **CALL))
    with pytest.raises(ShapeError, match='is what encode_texts returns, but got a Tensor, which is for one of them'):
        model(x, text_embeds=noise(3, 8))
    with pytest.raises(ShapeError, match='embed_texts would be film and attention and concat features at once'):
        model.embed_texts(TEXTS)
    with pytest.raises(ConfigError, match='this rule guides inside cross-attention, which a TextConditioner does not have'):
        model(x, **CALL, guidance=guidance.NAG())


def test_the_device_of_the_module():
    model = text_conditioned(
        seeded_net().to(torch.bfloat16), 'blocks.*', example=noise(3, 5, 6).bfloat16(), model_types=[TinyEncoder()]
    )
    assert {p.dtype for p in model.text_conditioner.parameters()} == {torch.float32}  # to learn in; hiddens keep their own
    assert model.eval()(noise(3, 5, 6).bfloat16(), **CALL).dtype == torch.bfloat16


def test_a_sequence_does_not_run_its_new_layers():
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    expected = net(noise(3, 5, 6))
    model = text_conditioned(net, '0', example=noise(3, 5, 6), model_types=[TinyEncoder()])
    torch.testing.assert_close(model(noise(3, 5, 6), texts=TEXTS), expected)
    assert len(model) == len(list(model)) == 2


class Skips(Net):
    def forward(self, x):
        return self.head(x)


class Named(nn.ModuleDict):
    def forward(self, x):
        for name in self:
            x = self[name](x)
        assert [*self] == [*self.keys()] == [name for name, _ in self.items()]
        assert len(self) == len([*self.values()])
        return x


class Listed(nn.ModuleList):
    def forward(self, x):
        for part in self[:-1]:
            x = part(x)
        return self[-1](x)


class Whatever(nn.Module):
    """Runs what it consists of, whatever that is."""

    def __init__(self, *parts):
        super().__init__()
        for name, part in enumerate(parts):
            self.add_module(str(name), part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


@pytest.mark.parametrize(
    'make', [lambda *parts: Named(dict(zip('ab', parts, strict=True))), lambda *parts: Listed(parts), Whatever]
)
def test_a_container_does_not_run_its_new_layers(make):
    torch.manual_seed(0)
    net, x = make(nn.Linear(6, 6), nn.Linear(6, 6)), noise(3, 5, 6)
    expected, (first, *_) = net(x), net._modules
    model = text_conditioned(net, first, example=x, model_types=[TinyEncoder()]).eval()
    torch.testing.assert_close(model(x, texts=TEXTS), expected)
    assert 'text_conditioner' in dict(model.named_modules())


def test_some_modules_of_a_sequence():
    net, x = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)), noise(3, 6)
    expected = net[1:](x)
    model = text_conditioned(net, '0', example=x, model_types=[TinyEncoder()])
    assert type(model[1:]) is nn.Sequential
    assert [*model[:]] == [*model] == [model[0], model[1], model[2]]
    torch.testing.assert_close(model[1:](x), expected)


def test_a_part_that_is_never_called_is_found_without_a_dry_run():
    stated = {'blocks.1': Part(dim=6, channel_first=False), 'head': Part(dim=6, channel_first=False)}
    model = text_conditioned(seeded_net(Skips), stated, model_types=[TinyEncoder()]).eval()
    for _ in range(2):
        with pytest.raises(UsageError, match=r"'blocks\.1' was never called in the first forward pass, so that it cannot follow"):
            model(noise(3, 5, 6), texts=TEXTS)
    model = text_conditioned(seeded_net(), stated, model_types=[TinyEncoder()]).eval()
    assert model(noise(3, 5, 6), texts=TEXTS).shape == (3, 5, 6)
