"""Which parts patterns name, and what the dry run finds of them."""

import re

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import Part, text_conditioned
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.modules.part import find_parts
from tests.conditioners.making import noise
from tests.modules.networks import Net, Pictures, seeded_net
from tests.tiny_models import TinyEncoder

ENCODER = {'model_types': [TinyEncoder()]}


@pytest.mark.parametrize(
    ('at', 'names'),
    [
        ('head', ['head']),
        ('blocks.*', ['blocks.0', 'blocks.1', 'blocks.2']),
        ('blocks.[02]', ['blocks.0', 'blocks.2']),
        ('*.1', ['blocks.1']),
        ('blocks.*.linear', ['blocks.0.linear', 'blocks.1.linear', 'blocks.2.linear']),
        ('**.act', ['blocks.0.act', 'blocks.1.act', 'blocks.2.act']),
        ('blocks.1.**', ['blocks.1', 'blocks.1.linear', 'blocks.1.act']),
        (['head', 'blocks.1'], ['blocks.1', 'head']),
        ({'head': None, 'blocks.1': 'film'}, ['blocks.1', 'head']),
    ],
)
def test_patterns(at, names):
    assert list(find_parts(Net(), at, 'film')) == names


def test_each_part_has_its_kind():
    parts = find_parts(Net(), {'blocks.0': 'attention', 'blocks.1': Part('concat', repeat_batch=2), 'blocks.2': Part()}, 'film')
    assert [part.condition for part in parts.values()] == ['attention', 'concat', 'film']
    assert parts['blocks.1'].repeat_batch == 2


@pytest.mark.parametrize(
    ('at', 'says'),
    [
        ('block.1', "Net has no part named 'block.1': the closest are 'blocks.1', 'blocks.2', 'blocks.0'"),
        ('xyzzy', "Net has no part named 'xyzzy': its parts are 'blocks', 'head', and what is inside of them"),
        ([], "at= names the parts that follow the text, such as at='mid_block' or at=['blocks.*'], but got none"),
        ([3], 'at= names parts by strings, such as "blocks.*", but got 3'),
        (3, 'at= names parts by strings, such as "blocks.*", but got 3'),
        (None, 'at= names parts by strings, such as "blocks.*", but got None'),
        (['blocks.*', '*.1'], "at= names 'blocks.1' twice, by 'blocks.*' and by '*.1': leave one of them out"),
        ({'head': 3}, "at['head'] is 'film', 'attention', 'concat', a Part(...) or None, but got 3"),
        ({'head': 'raw'}, "a part is conditioned by film, attention or concat, but got 'raw'"),
    ],
)
def test_patterns_that_name_nothing(at, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        text_conditioned(Net(), at, example=noise(3, 5, 6), **ENCODER)


@pytest.mark.parametrize(
    ('wrong', 'says'),
    [
        ({'dim': 0}, 'dim of a part is a positive integer, but got 0'),
        ({'repeat_batch': True}, 'repeat_batch of a part is a positive integer, but got True'),
        ({'channel_first': 'last'}, "channel_first of a part is True or False, but got 'last'"),
        ({'condition': 'flim'}, "a part is conditioned by film, attention or concat, but got 'flim'"),
    ],
)
def test_a_part_checks_its_arguments(wrong, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        Part(**wrong)


def found(net, example, at):
    model = text_conditioned(net, at, example=example, **ENCODER)
    return {name: (part.dim, part.channel_first) for name, part in model.text_parts.items()}


def test_tokens():
    assert found(Net(), noise(3, 5, 6), ['blocks.*', 'blocks.0.act', 'head']) == dict.fromkeys(
        ['blocks.0', 'blocks.0.act', 'blocks.1', 'blocks.2', 'head'], (6, False)
    )


@pytest.mark.parametrize('size', [4, 8], ids=['', 'as wide as there are channels'])
def test_pictures(size):
    """A part without weights, and tokens that were put back into a picture, have the layout of what is around them."""
    shapes = found(Pictures(), torch.randn(2, 3, size, size), ['enter', 'norm', 'act', 'mix'])
    assert shapes == dict.fromkeys(['enter', 'norm', 'act', 'mix'], (8, True))


class Own(nn.Module):
    """A normalisation of one's own: of channels that come first, or last."""

    def __init__(self, dim, first):
        super().__init__()
        self.weight, self.first = nn.Parameter(torch.ones(dim)), first

    def forward(self, x):
        return x * (self.weight[:, None, None] if self.first else self.weight)


@pytest.mark.parametrize('first', [True, False])
def test_layers_of_other_libraries(first):
    shape = (2, 8, 3, 3) if first else (2, 3, 3, 8)
    assert found(nn.Sequential(Own(8, first)), torch.randn(shape), '0') == {'0': (8, first)}


class PictureNorm(nn.LayerNorm):
    """A normalisation of the channels of pictures, as torchvision and others have it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize('size', [4, 8], ids=['', 'as wide as there are channels'])
def test_a_normalisation_of_pictures(size):
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), PictureNorm(8)), PictureNorm(8))
    assert found(net, torch.randn(2, 3, size, size), ['0', '0.1', '1']) == dict.fromkeys(['0', '0.1', '1'], (8, True))


class Turned(nn.Module):
    """A block of pictures that mixes channels last and hands them on first."""

    def __init__(self):
        super().__init__()
        self.deep, self.wide = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, x):
        return self.wide(self.deep(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_block_that_turns_its_output_around():
    assert found(nn.Sequential(Turned()), torch.randn(2, 8, 4, 4), '0') == {'0': (8, True)}
    with pytest.raises(ConfigError, match="the dry run does not show where the channels of '0' are"):
        found(nn.Sequential(Turned()), torch.randn(2, 8, 8, 8), '0')
    assert found(nn.Sequential(Turned()), torch.randn(2, 8, 8, 8), {'0': Part(channel_first=True)}) == {'0': (8, True)}


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Packed(nn.Module):
    """A linear layer of a library that keeps its weights in a form of its own."""

    out_features = 8

    def forward(self, x):
        return x.repeat(1, 1, 2)


def test_linear_layers_in_other_forms():
    assert found(Attends(), torch.randn(2, 5, 8), 'attention') == {'attention': (8, False)}
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
    assert found(nn.Sequential(normed), torch.randn(2, 5, 4), '0') == {'0': (8, False)}
    assert found(nn.Sequential(Packed()), torch.randn(2, 5, 4), '0') == {'0': (8, False)}


def test_one_vector_per_sample():
    assert found(nn.Sequential(nn.Linear(4, 5)), torch.randn(2, 4), '0') == {'0': (5, False)}


def test_what_is_stated_is_taken():
    stated = {'blocks.0': Part(dim=6, channel_first=False)}
    model = text_conditioned(Net(), stated, **ENCODER)
    assert model.text_parts == {'blocks.0': Part('film', 6, False)}
    assert found(nn.Sequential(Own(8, True)), torch.randn(2, 8, 8, 8), {'0': Part(channel_first=False)}) == {'0': (8, False)}
    assert found(nn.Sequential(nn.Tanh()), torch.randn(2, 8, 4), {'0': Part(dim=8)}) == {'0': (8, True)}


@pytest.mark.parametrize(
    'example', [noise(3, 5, 6), (noise(3, 5, 6), 2.0), {'x': noise(3, 5, 6)}, lambda net: net(noise(3, 5, 6))]
)
def test_examples(example):
    assert found(Net(), example, 'head') == {'head': (6, False)}


def test_the_dry_run_leaves_nothing_behind():
    net, state = seeded_net(), torch.random.get_rng_state()
    net.blocks.insert(0, nn.Sequential(nn.Dropout(), nn.BatchNorm1d(5)))
    net.blocks[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [one.training for one in net.modules()]
    with pytest.raises(ConfigError):
        text_conditioned(net, 'head', example=noise(3, 5, 7), **ENCODER)
    text_conditioned(net, 'head', example=noise(3, 5, 6), model_types='null' and [TinyEncoder()])
    assert [one.training for name, one in net.named_modules() if not name.startswith('text_conditioner')] == modes
    torch.testing.assert_close({name: net.state_dict()[name] for name in before}, before, rtol=0, atol=0)
    assert [len(one._forward_hooks) for one in net.modules()].count(1) == 1
    assert state is not None


class Odd(nn.Module):
    """Parts that cannot be conditioned."""

    def __init__(self):
        super().__init__()
        self.words, self.scalar, self.never, self.frozen = (
            Says('words'),
            Says(torch.tensor(1.0)),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )
        self.turned, self.folded, self.shapeless, self.wide = Turn(), Fold(), nn.Tanh(), nn.Linear(4, 4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 6)
        self.twice = Twice()

    def forward(self, x):
        self.words(x), self.scalar(x), self.turned(self.first(x)), self.folded(self.first(x))
        with torch.no_grad():
            self.frozen(x)
        self.shapeless(torch.zeros(x.shape[0], 7, 7))
        self.twice(x, self.first), self.twice(x, self.second)
        return self.wide(x)


class Says(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what


class Turn(nn.Module):
    def forward(self, x):
        return x.transpose(0, 1)


class Fold(nn.Module):
    def forward(self, x):
        return x.flatten(0, 1)


class Twice(nn.Module):
    def forward(self, x, layer):
        return layer(x)


@pytest.mark.parametrize(
    ('at', 'says'),
    [
        ('words', "'words' returns 'words', but a part returns a tensor, or a tuple whose first entry is one"),
        (
            'scalar',
            "'scalar' returns a tensor of shape () for a batch of 3, but a part is conditioned on the text of each sample",
        ),
        ('never', "'never' was never called when Odd ran on the example, so that it cannot follow a text"),
        ('frozen', "'frozen' is called under no_grad, or in a reentrant checkpoint, so that nothing added to it could learn"),
        (
            'turned',
            "'turned' returns a tensor of shape (5, 3, 4) for a batch of 3, but a part is conditioned on the text of each",
        ),
        ('folded', 'along its first dimension: if 5 rows belong to one sample, say Part(repeat_batch=5)'),
        ('shapeless', "the dry run does not show where the channels of 'shapeless' are, whose output is of shape (3, 7, 7)"),
        ('twice', "the output of 'twice' has 4 and 6 channels: a part has one width"),
        ({'wide': Part(dim=5)}, "the output of 'wide' has 4 and 5 channels: a part has one width"),
    ],
)
def test_parts_that_cannot_be_conditioned(at, says):
    net = Odd()
    with pytest.raises(ConfigError, match=re.escape(says)):
        text_conditioned(net, at, example=noise(3, 5, 4), **ENCODER)
    assert type(net) is Odd
    assert not hasattr(net, 'text_conditioner')


def test_frames_in_the_batch_are_stated():
    assert (
        text_conditioned(Odd(), {'folded': Part(repeat_batch=5)}, example=noise(3, 5, 4), **ENCODER).text_parts['folded'].dim == 4
    )


def test_a_dry_run_that_fails_says_what_was_tried():
    with pytest.raises(
        ConfigError, match=r'the dry run failed: Net was called with a tensor of shape \(3, 5, 7\), and raised Runtime'
    ):
        text_conditioned(Net(), 'head', example=noise(3, 5, 7), **ENCODER)


def test_an_example_without_a_batch():
    with pytest.raises(ConfigError, match=r"'0' returns a tensor of shape \(5,\), but a part is conditioned on the text of each"):
        text_conditioned(nn.Sequential(nn.Linear(4, 5)), '0', example=noise(4), **ENCODER)


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ({'reads_scael': True}, "'reads_scael' is no argument of film, which takes .*; 'reads_scael' may be 'reads_scale' here"),
        ({'exmaple': noise(3, 5, 6)}, "'exmaple' is no argument of film, which takes .*; 'exmaple' may be 'example' here"),
        ({'condition': None}, "condition= is 'film', 'attention' or 'concat', of the parts that say none, but got None"),
        ({'condition': 'flim', 'at': {'head': 'film'}}, "a part is conditioned by film, attention or concat, but got 'flim'"),
    ],
)
def test_arguments_are_checked_before_the_dry_run(arguments, says):
    ran = []
    with pytest.raises(ConfigError, match=says):
        text_conditioned(Net(), **{'at': 'head', 'example': ran.append, **ENCODER, **arguments})
    assert ran == []


def test_without_an_example():
    with pytest.raises(
        ConfigError, match=r"the width of 'head' is not known: pass example=, what to call Net with, such as exampl"
    ):
        text_conditioned(Net(), {'blocks.0': Part(dim=6, channel_first=False), 'head': None}, **ENCODER)
    with pytest.raises(ConfigError, match='example= is what to call the module with, a tensor, a tuple of arguments'):
        text_conditioned(Net(), 'head', example=3, **ENCODER)


@pytest.mark.parametrize('given', [{'channel_first': 1}, {'channel_first': 0.0}, {'repeat_batch': None}, {'dim': True}])
def test_a_part_of_nonsense(given):
    with pytest.raises(ConfigError, match=f'{next(iter(given))} of a part is'):
        Part(**given)


def test_names_that_are_no_strings():
    with pytest.raises(ConfigError, match=r"at= names parts by strings, such as .*, but got \['head'\]"):
        find_parts(Net(), [['head']], 'film')


def test_a_scripted_module_is_refused():
    with pytest.raises(ConfigError, match='was replaced or scripted'):
        text_conditioned(torch.jit.script(nn.Linear(6, 6)), at='', example=noise(3, 6), **ENCODER)


def test_a_shared_part_goes_by_its_first_name_and_is_found_by_each():
    net = Net()
    net.also = net.blocks[1]
    net.also.owner = net  # a part that knows what it is in
    for at in ('also', '*.1', 'also*', ['blocks.1']):
        assert list(find_parts(net, at, 'film')) == ['blocks.1']
    assert list(find_parts(net, 'also.linear', 'film')) == ['blocks.1.linear']
    with pytest.raises(ConfigError, match=r"names 'blocks.1' twice, by 'blocks.1' and by 'also'"):
        find_parts(net, ['blocks.1', 'also'], 'film')
