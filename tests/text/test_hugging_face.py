"""Any model of transformers: pooling, layers, padding sides, towers; and BGE."""

import contextlib
import re

import pytest
import torch
import torch.nn.functional as F

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import build_encoder
from classifier_free_guidance_pytorch.text.hugging_face import BGEAdapter, HFTextAdapter

TEXTS = ['a red ball', 'the tiny green circle chasing after a yellow triangle']


def tower(folder, name):
    """The text tower of the checkpoint, and its tokenizer, by transformers alone."""
    import transformers

    whole = {
        'clip': lambda: transformers.CLIPModel.from_pretrained(folder).text_model,
        'siglip': lambda: transformers.SiglipModel.from_pretrained(folder).text_model,
        'decoder': lambda: transformers.LlamaForCausalLM.from_pretrained(folder).model,
        'bart': lambda: transformers.BartModel.from_pretrained(folder).encoder,
        'bge': lambda: transformers.BertModel.from_pretrained(folder),
    }
    return whole[name]().eval(), transformers.AutoTokenizer.from_pretrained(folder)


def folder_of(hub, name):
    return {'clip': hub.hf_clip, 'siglip': hub.siglip, 'decoder': hub.decoder, 'bart': hub.bart, 'bge': hub.bge}[name]()


@torch.no_grad()
def reference(folder, name, text, layer):
    """One text, without padding except where the model reads a fixed length; and its ids."""
    model, tokenizer = tower(folder, name)
    ids = tokenizer(text)['input_ids']
    length = len(ids)
    if name == 'siglip':
        ids = ids + [tokenizer.pad_token_id] * (48 - length)
    output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    if layer != -1 and output.hidden_states is None:
        pytest.skip('the text tower of this transformers hands out no layers')
    tokens = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return tokens[0], ids, length


@pytest.mark.parametrize('layer', [-1, -2, -3])
@pytest.mark.parametrize('name', ['clip', 'siglip', 'decoder', 'bart', 'bge'])
def test_tokens_are_transformers_own_at_every_layer(hub, name, layer):
    folder = folder_of(hub, name)
    encoding = HFTextAdapter(folder, layer=layer).encode(TEXTS)
    for row, text in enumerate(TEXTS):
        tokens, _, length = reference(folder, name, text, layer)
        torch.testing.assert_close(encoding.tokens[row][encoding.mask[row]], tokens[:length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pooling', ['mean', 'cls', 'eos', 'last'])
@pytest.mark.parametrize('name', ['clip', 'siglip', 'decoder', 'bart', 'bge'])
def test_pooling(hub, name, pooling):
    folder = folder_of(hub, name)
    if (name, pooling) == ('decoder', 'eos'):
        with pytest.raises(ConfigError, match=r"pooling='eos' needs a tokenizer that ends a text.*use 'last'"):
            HFTextAdapter(folder, pooling=pooling)
        return
    pooled = HFTextAdapter(folder, pooling=pooling).encode(TEXTS).pooled
    for row, text in enumerate(TEXTS):
        tokens, ids, length = reference(folder, name, text, -1)
        expected = {
            'mean': tokens[:length].mean(dim=0),
            'cls': tokens[0],
            'eos': tokens[length - 1],
            'last': tokens[len(ids) - 1],  # of SigLIP's padding, and of the text everywhere else
        }[pooling]
        torch.testing.assert_close(pooled[row], expected, rtol=1e-4, atol=1e-5)


def test_the_first_end_token_counts(hub):
    """An end token written in the text ends it, as CLIP's own pooling has it."""
    folder = hub.hf_clip()
    pooled = HFTextAdapter(folder, pooling='eos').encode(['a red <|endoftext|> ball']).pooled[0]
    tokens, ids, _ = reference(folder, 'clip', 'a red <|endoftext|> ball', -1)
    torch.testing.assert_close(pooled, tokens[ids.index(ids[-1])])


def test_a_text_without_its_end_token_is_pooled_where_it_was_cut(hub):
    folder = hub.hf_clip()
    encoder = HFTextAdapter(folder, pooling='eos')
    ids, mask = (part[:, :6] for part in encoder.tokenize(TEXTS))
    assert mask.sum(dim=1).tolist() == [5, 6]  # the end of the longer text is cut off
    pooled = encoder.encode_ids(ids, mask).pooled
    for row, last in enumerate((4, 5)):
        tokens = tower(folder, 'clip')[0](input_ids=ids[row : row + 1, : last + 1]).last_hidden_state[0]
        torch.testing.assert_close(pooled[row], tokens[last], rtol=1e-4, atol=1e-5)


def test_a_tokenizer_that_pads_left_without_a_padding_token(hub):
    from transformers import AutoTokenizer

    raw = AutoTokenizer.from_pretrained(hub.decoder())
    assert (raw.pad_token, raw.padding_side) == (None, 'left')
    encoder = HFTextAdapter('tiny/decoder')
    assert encoder.encode(TEXTS).mask[0].tolist() == [True] * 3 + [False] * 6


def test_only_the_encoder_of_an_encoder_decoder_stays(hub):
    hub.bart()
    names = dict(HFTextAdapter('tiny/bart').model.named_modules())
    assert not any('decoder' in name for name in names)


def test_only_the_text_tower_of_clip_stays(hub):
    hub.hf_clip()
    assert not any('vision' in name for name, _ in HFTextAdapter('tiny/clip').model.named_modules())


@pytest.mark.parametrize(('name', 'cls'), [('clip', 'CLIPTextModel'), ('siglip', 'SiglipTextModel')])
def test_a_tower_that_was_saved_alone_is_the_same_encoder(hub, tmp_path, name, cls):
    """transformers 4 cannot read the configuration of such a tower by itself."""
    import json

    import transformers

    folder = folder_of(hub, name)
    getattr(transformers, cls).from_pretrained(folder).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text())['model_type'] == f'{name}_text_model'
    alone, whole = (HFTextAdapter(path, pooling='last').encode(TEXTS) for path in (tmp_path, folder))
    torch.testing.assert_close(alone.tokens, whole.tokens)
    torch.testing.assert_close(alone.pooled, whole.pooled)


def test_bge_is_the_normalised_cls_token(hub, tiny_bge):
    encoder = build_encoder('bge')
    assert encoder.name == 'BAAI/bge-base-en-v1.5'
    pooled = encoder.encode(TEXTS).pooled
    for row, text in enumerate(TEXTS):
        tokens, _, _ = reference(tiny_bge, 'bge', text, -1)
        torch.testing.assert_close(pooled[row], F.normalize(tokens[0], dim=-1), rtol=1e-4, atol=1e-5)


def test_bge_honours_its_name(hub, tmp_path):
    from tests.tiny_models import make_bert

    make_bert(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / 'model.safetensors')
    save_file({key: 2 * value for key, value in weights.items()}, tmp_path / 'model.safetensors', {'format': 'pt'})
    hub.bge()
    assert not torch.allclose(BGEAdapter(tmp_path).encode(TEXTS).pooled, BGEAdapter().encode(TEXTS).pooled, atol=1e-3)


@pytest.mark.parametrize(
    ('kwargs', 'sentence'),
    [
        ({'layer': 0}, 'layer counts from the end, -1 is the last, but got 0'),
        ({'layer': -4}, "layer=-4 is beyond the 3 layers of 'tiny/clip': -1 to -3"),
        ({'max_length': 25}, "max_length=25 is more than the 24 tokens that 'tiny/clip' can read"),
        ({'pooling': 'max'}, 'pooling'),
    ],
)
def test_arguments_that_cannot_work(hub, kwargs, sentence):
    hub.hf_clip()
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        HFTextAdapter('tiny/clip', **kwargs)


def test_there_is_no_default_model():
    with pytest.raises(ConfigError, match="model_types='hf' has no default model: pass its name or path"):
        HFTextAdapter()


def test_a_model_without_text_is_refused(hub, tmp_path):
    import transformers

    transformers.ViTConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is of type 'vit', which has no text tower"):
        HFTextAdapter(tmp_path)


def test_a_checkpoint_of_another_model_is_refused_not_left_random(hub, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(hub.bge(), tmp_path / 'model')
    path = tmp_path / 'model' / 'model.safetensors'
    weights = load_file(path)
    save_file({key: value for key, value in weights.items() if 'layer.2' not in key}, path, {'format': 'pt'})
    with pytest.raises(ConfigError, match=r'is not a checkpoint of AutoModel: it lacks 16 weights, such as'):
        HFTextAdapter(tmp_path / 'model').encode(TEXTS)


# limits and positions

LATE = {  # type -> how many positions come before the first that a text can use
    'bert': 0,
    'roberta': 2,
    'xlm-roberta': 2,
    'camembert': 2,
    'roberta-prelayernorm': 2,
    'data2vec-text': 2,
    'mpnet': 2,
    'longformer': 2,
    'electra': 0,
}


def with_positions(folder, model_type, **sizes):
    """A tiny model with 26 positions, and a tokenizer that states no limit."""
    import transformers

    from tests.tiny_models import tower_sizes, word_tokenizer

    word_tokenizer(bos_token='<s>', pad_token='<pad>', eos_token='</s>', unk_token='<unk>').save_pretrained(folder)
    more = {'attention_window': 4} if model_type == 'longformer' else {}
    sizes = {
        'max_position_embeddings': 26,
        'pad_token_id': 1,
        'vocab_size': 60,
        **tower_sizes(num_hidden_layers=1),
        **more,
        **sizes,
    }
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize('model_type', LATE)
def test_the_limit_is_the_positions_that_a_text_can_use(tmp_path, model_type):
    with_positions(tmp_path, model_type)
    usable = 26 - LATE[model_type]
    encoder = HFTextAdapter(tmp_path)
    assert encoder.max_text_len == usable
    with pytest.warns(UserWarning, match=f'reads at most {usable} tokens of a text and cuts the rest off'):
        encoding = encoder.encode(['a red ball', 'red ball ' * 30])
    assert encoding.mask.sum(dim=1).tolist() == [5, usable]
    assert encoding.tokens.isfinite().all()
    with pytest.raises(ConfigError, match=f'max_length={usable + 1} is more than the {usable} tokens that'):
        HFTextAdapter(tmp_path, max_length=usable + 1)


def test_positions_start_behind_that_of_the_padding_whatever_its_id(tmp_path):
    with_positions(tmp_path, 'roberta', pad_token_id=4)
    assert HFTextAdapter(tmp_path).max_text_len == 21


def test_a_user_may_read_more_than_the_tokenizer_states_within_the_positions(tmp_path):
    with_positions(tmp_path, 'roberta')
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.model_max_length = 12
    tokenizer.save_pretrained(tmp_path)
    assert HFTextAdapter(tmp_path).max_text_len == 12
    assert HFTextAdapter(tmp_path, max_length=24).encode(['red ' * 22]).tokens.shape[1] == 24


def test_every_model_of_transformers_whose_positions_start_late_is_known():
    """By its source: a table of positions with a padding index."""
    from pathlib import Path

    import transformers

    from classifier_free_guidance_pytorch.text.hugging_face import _POSITIONS_START_LATE

    table = re.compile(r'\bposition_embeddings = [\w.]*Embedding\(\s*config\.max_position_embeddings[^)]*padding_idx')
    found = set()
    for file in (Path(transformers.__file__).parent / 'models').glob('*/modeling_*.py'):
        if table.search(file.read_text(encoding='utf-8')):
            for config in file.parent.glob('configuration_*.py'):
                found |= set(re.findall(r'model_type[^=\n]*= "([^"]+)"', config.read_text(encoding='utf-8')))
    # no text models, wholes of multimodal models, and one whose padding is at position 0 as well
    other = {'evolla', 'EvollaModel', 'pp_doclayout_v2', 'altclip', 'bridgetower', 'clap', 'lxmert'} | {
        name for name in found if re.search('vision|audio', name)
    }
    assert 'roberta' in found
    assert found - other - _POSITIONS_START_LATE == set()


# code that comes with a model


def test_code_of_a_repository_is_never_run(tmp_path, monkeypatch):
    """Neither at once nor after a question on the terminal, which would be answered with yes here."""
    import io
    import json
    import sys

    def add(file, **content):
        (tmp_path / file).write_text(json.dumps({**json.loads((tmp_path / file).read_text()), **content}))

    with_positions(tmp_path, 'bert')
    ran = tmp_path / 'ran'
    (tmp_path / 'code.py').write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass")
    monkeypatch.setattr(sys, 'stdin', io.StringIO('y\n' * 9))
    add('tokenizer_config.json', tokenizer_class='Own', auto_map={'AutoTokenizer': ['code.Own', None]})
    with contextlib.suppress(ConfigError):  # from some release on, transformers takes its own tokenizer of a BERT
        HFTextAdapter(tmp_path).encode(['a red ball'])
    add('config.json', model_type='own', auto_map={'AutoConfig': 'code.Own', 'AutoModel': 'code.Own'})
    with pytest.raises(ConfigError, match='cannot be read without code from its own repository, and this library never runs'):
        HFTextAdapter(tmp_path).encode(['a red ball'])
    assert not ran.exists()


def test_a_log_gets_no_progress_bars_and_a_users_choice_stays(hub, capfd):
    from transformers.utils import logging

    for chosen in (logging.disable_progress_bar, logging.enable_progress_bar):
        chosen()
        before = logging.is_progress_bar_enabled()
        build_encoder('t5', hub.t5())
        assert logging.is_progress_bar_enabled() is before
    assert 'Loading' not in capfd.readouterr().err
