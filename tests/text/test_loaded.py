"""Encoders of transformers that are in a subfolder, loaded already, given a template, or read at several layers."""

import pickle
import re
import shutil

import pytest
import torch

from classifier_free_guidance_pytorch import HFTextAdapter, T5Adapter, TextConditioner
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from tests.text.test_hugging_face import TEXTS, reference, tower

TEMPLATE = 'the tiny yellow dog : {} above a'


def same(left, right):
    for name in ('tokens', 'mask', 'pooled'):
        torch.testing.assert_close(getattr(left, name), getattr(right, name))


@pytest.fixture(params=['t5', 'hf_clip'])
def pipeline(request, hub, tmp_path):
    """A repository of diffusers: an encoder without its tokenizer, which has a folder of its own; and the encoder alone."""
    folder, cls = getattr(hub, request.param)(), T5Adapter if request.param == 't5' else HFTextAdapter
    for part, names in {'text_encoder_2': ('config.json', '*.safetensors'), 'tokenizer_2': ('*token*', 'spiece*')}.items():
        (tmp_path / part).mkdir()
        for file in {file for name in names for file in folder.glob(name)}:
            shutil.copy(file, tmp_path / part)
    return cls, tmp_path, cls(folder)


def test_a_subfolder_of_diffusers(pipeline):
    cls, folder, alone = pipeline
    encoder = cls(folder, subfolder='text_encoder_2')
    same(encoder.encode(TEXTS), alone.encode(TEXTS))
    assert ('subfolder', 'text_encoder_2') in encoder.identity.settings
    assert 'subfolder' not in dict(alone.identity.settings)


def test_two_encoders_of_one_repository_are_two(hub, tmp_path):
    from safetensors.torch import load_file, save_file

    for part in ('one', 'two'):
        shutil.copytree(hub.bge(), tmp_path / part)
    weights = load_file(tmp_path / 'two' / 'model.safetensors')
    save_file({key: 2 * value for key, value in weights.items()}, tmp_path / 'two' / 'model.safetensors', {'format': 'pt'})
    one, two = (HFTextAdapter(tmp_path, subfolder=part).encode(TEXTS) for part in ('one', 'two'))
    assert not torch.allclose(one.pooled, two.pooled, atol=1e-3)


@pytest.mark.parametrize('layers', [(-2,), (-1, -3), (-2, -3, -1)])
@pytest.mark.parametrize('name', ['decoder', 'bge', 'clip'])
def test_layers_are_joined(hub, name, layers):
    folder = {'decoder': hub.decoder, 'bge': hub.bge, 'clip': hub.hf_clip}[name]()
    encoder = HFTextAdapter(folder, layers=layers)
    encoding = encoder.encode(TEXTS)
    assert encoder.dim_latent == encoder.dim_pooled == 32 * len(layers)
    for row, text in enumerate(TEXTS):
        expected = torch.cat([reference(folder, name, text, layer)[0] for layer in layers], dim=-1)
        torch.testing.assert_close(encoding.tokens[row][encoding.mask[row]], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoding.pooled[row], expected.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert dict(encoder.identity.settings)['layer'] == (layers[0] if len(layers) == 1 else ','.join(map(str, layers)))


@pytest.mark.parametrize('name', ['decoder', 'bge', 'clip'])
def test_a_text_is_read_in_its_template_and_what_comes_before_it_is_dropped(hub, name):
    folder = {'decoder': hub.decoder, 'bge': hub.bge, 'clip': hub.hf_clip}[name]()
    _, tokenizer = tower(folder, name)
    encoder, before = (
        HFTextAdapter(folder, template=TEMPLATE, pooling='last'),
        len(tokenizer('the tiny yellow dog :')['input_ids']),
    )
    before -= tokenizer('a')['input_ids'][-1] in tokenizer.all_special_ids  # the end of the text, which the whole has later
    encoding = encoder.encode([*TEXTS, ''])
    for row, text in enumerate([*TEXTS, '']):
        tokens, _, _ = reference(folder, name, TEMPLATE.replace('{}', text), -1)
        torch.testing.assert_close(encoding.tokens[row][encoding.mask[row]], tokens[before:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoding.pooled[row], tokens[-1], rtol=1e-4, atol=1e-5)
    assert encoder.identity != HFTextAdapter(folder, pooling='last').identity


def test_a_template_counts_towards_the_limit_of_the_model_alone(hub):
    hub.decoder()
    whole, templated = HFTextAdapter('tiny/decoder'), HFTextAdapter('tiny/decoder', template='the tiny yellow dog {}')
    assert templated.max_text_len == whole.max_text_len - 4
    short = HFTextAdapter('tiny/decoder', template='the tiny yellow dog {}', max_length=3)
    with pytest.warns(UserWarning, match='reads at most 3 tokens of a text'):
        encoding = short.encode([TEXTS[1]])
    torch.testing.assert_close(encoding.tokens, templated.encode([TEXTS[1]]).tokens[:, :3])
    assert short.encode(['']).mask.tolist() == [[True]]  # nothing follows the text: the end of text stands for it


def loaded(folder, name):
    import transformers

    classes = {'decoder': 'LlamaForCausalLM', 'bge': 'BertModel', 'clip': 'CLIPModel', 'bart': 'BartModel'}
    return getattr(transformers, classes[name]).from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize('name', ['decoder', 'bge', 'clip', 'bart'])
def test_a_network_that_is_loaded_already(hub, name):
    """It is left as it is, but for its mode, and so is its tokenizer."""
    folder = {'decoder': hub.decoder, 'bge': hub.bge, 'clip': hub.hf_clip, 'bart': hub.bart}[name]()
    model, tokenizer = loaded(folder, name)
    model.train()
    side, expected = tokenizer.padding_side, HFTextAdapter(folder).encode(TEXTS)
    same(HFTextAdapter(model=model, tokenizer=tokenizer).encode(TEXTS), expected)
    same(HFTextAdapter(model=model).encode(TEXTS), expected)  # the tokenizer is where the model came from
    same(HFTextAdapter(folder, model=model).encode(TEXTS, dtype=torch.float64).to(dtype=torch.float32), expected)
    assert tokenizer.padding_side == side
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
    conditioner = TextConditioner((8,), model_types='hf', model_kwargs={'model': model, 'tokenizer': tokenizer}).double()
    assert conditioner(TEXTS)[0](torch.randn(2, 8).double()).dtype == torch.float64


def test_a_quantised_network(hub):
    """Its layers cannot be moved, cast or copied, and nothing tries."""
    folder = hub.bge()
    model, _ = loaded(folder, 'bge')
    exact = HFTextAdapter(folder).encode(TEXTS).pooled
    quantised = torch.ao.quantization.quantize_dynamic(model.eval(), {torch.nn.Linear}, dtype=torch.qint8)
    pooled = HFTextAdapter(folder, model=quantised).encode(TEXTS, dtype=torch.bfloat16).pooled
    assert pooled.dtype == torch.bfloat16
    assert 1e-4 < (pooled.float() - exact).abs().max() < 0.3


def test_a_network_with_adapters(hub):
    peft = pytest.importorskip('peft')
    folder = hub.decoder()
    model, tokenizer = loaded(folder, 'decoder')
    before = HFTextAdapter(folder).encode(TEXTS).pooled
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=['q_proj'], init_lora_weights=False))
    after = HFTextAdapter(folder, model=model, tokenizer=tokenizer).encode(TEXTS).pooled
    assert not torch.allclose(before, after, atol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(HFTextAdapter(folder, model=model).encode(TEXTS).pooled, before)


def test_a_pickle_does_not_hold_a_network_that_was_given(hub):
    folder = hub.bge()
    encoder = HFTextAdapter(folder, model=loaded(folder, 'bge')[0])
    assert len(pickle.dumps(encoder)) < len(pickle.dumps(encoder.model))
    restored = pickle.loads(pickle.dumps(encoder))
    assert restored.dim_latent == encoder.dim_latent
    with pytest.raises(UsageError, match='was pickled without the network that was given as model=: build it again'):
        restored.encode(TEXTS)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ({'layers': (-1, -2), 'layer': -2}, 'layers lists the layers to join, instead of layer=, but got layers=(-1, -2) and'),
        ({'layers': ()}, 'layers lists the layers to join'),
        ({'layers': (-1, 3)}, 'layer counts from the end, -1 is the last, but got 3'),
        ({'layers': (-1, -9)}, "layer=-9 is beyond the 3 layers of 'tiny/clip': -1 to -3"),
        ({'template': 'a prompt'}, "template has one {}, where the text goes, as in 'Describe: {}', but got 'a prompt'"),
        ({'template': 'a {}', 'pooling': 'cls'}, "pooling='cls' is the first token, which belongs to the template"),
        ({'model': torch.nn.Linear(2, 2)}, 'model= is a network of transformers, but got a Linear'),
        (
            {'model': torch.nn.Linear(2, 2), 'device': 'cpu'},
            'model= is loaded and runs where it is, so device=, dtype= and subfolder=',
        ),
        ({'tokenizer': object()}, 'tokenizer= belongs to a network that is loaded already: pass it as model='),
    ],
)
def test_arguments_that_cannot_work(hub, arguments, sentence):
    hub.hf_clip()
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        HFTextAdapter('tiny/clip', **arguments)
