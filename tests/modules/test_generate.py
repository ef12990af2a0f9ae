"""Language models that follow text generate with their caches: held to the same run without any cache."""

import copy
import pickle

import pytest
import torch

from classifier_free_guidance_pytorch import guidance, text_conditioned
from classifier_free_guidance_pytorch.decorator.outputs import PerBranch
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.conditioners.making import randomised
from tests.tiny_models import TinyEncoder

TEXTS = ['a small red circle', 'a dog']
CALL = {'texts': TEXTS, 'cond_scale': 3.0}


def ids(batch=2):
    return torch.randint(3, 40, (batch, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def writer():
    repair_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    net = LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    return strong(text_conditioned(net, 'model.layers.*', 'attention', example={'input_ids': ids()}, model_types=[TinyEncoder()]))


def strong(model):
    """With weights so large that every next word differs from text to text."""
    randomised(model.text_conditioner)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return model.eval()


@pytest.fixture
def lengths(writer):
    """How many words each forward pass of the model reads."""
    seen = []
    writer.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    return seen


def generated(writer, **keywords):
    return writer.generate(ids(), **{'max_new_tokens': 12, 'do_sample': False, **CALL, **keywords})


def caches():
    from transformers import DynamicCache

    return {'dynamic': {}, 'static': {'cache_implementation': 'static'}, 'own': {'past_key_values': DynamicCache()}}


@pytest.mark.parametrize('cache', ['dynamic', 'static', 'own'])
def test_greedy(writer, lengths, cache):
    expected = generated(writer, use_cache=False)
    assert not torch.equal(expected, generated(writer, cond_scale=1.0))
    lengths.clear()
    torch.testing.assert_close(generated(writer, **caches()[cache]), expected)
    assert lengths == [5, 5, *[1] * 22]  # both branches, with a cache each


@pytest.mark.parametrize('cache', ['dynamic', 'static'])
@pytest.mark.parametrize('search', [{'num_beams': 3}, {'num_beams': 4, 'num_return_sequences': 2}], ids=['beams', 'several'])
def test_beams(writer, lengths, cache, search):
    search = {**search, 'num_samples_per_text': search['num_beams']}
    expected = generated(writer, use_cache=False, **search)
    lengths.clear()
    torch.testing.assert_close(generated(writer, **search, **caches()[cache]), expected)
    assert set(lengths[2:]) == {1}


def test_sampling_several(writer):
    search = {'do_sample': True, 'num_return_sequences': 3, 'num_samples_per_text': 3}
    drawn = []
    for use_cache in (False, True):
        torch.manual_seed(3)
        drawn.append(generated(writer, use_cache=use_cache, **search))
    torch.testing.assert_close(*drawn)


def test_it_is_what_the_processor_of_transformers_makes_of_two_models(writer):
    from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

    null = writer.bind(texts=TEXTS, cond_scale=0.0)
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(3.0, null)
    expected = generated(writer, cond_scale=1.0, logits_processor=[processor])
    torch.testing.assert_close(generated(writer, guidance=guidance.Logits()), expected)


def test_a_cache_that_counts_no_words():
    repair_torchvision()
    import transformers
    from transformers import MambaConfig, MambaForCausalLM

    if transformers.__version__ < '5':
        pytest.skip('a cache of Mamba does not say whether it is empty in transformers 4')
    torch.manual_seed(0)
    size = {'vocab_size': 40, 'hidden_size': 16, 'num_hidden_layers': 2, 'state_size': 4}
    net = MambaForCausalLM(MambaConfig(**size, pad_token_id=0, bos_token_id=1, eos_token_id=2))
    at = 'backbone.layers.*'
    model = strong(text_conditioned(net, at, 'attention', example={'input_ids': ids()}, model_types=[TinyEncoder()]))
    for search in ({}, {'num_beams': 2, 'num_samples_per_text': 2}):
        expected = generated(model, use_cache=False, **search)
        torch.testing.assert_close(generated(model, **search), expected)
        assert not torch.equal(expected, generated(model, **search, cond_scale=1.0))


def test_an_encoder_that_generate_runs_by_itself():
    repair_torchvision()
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    size = {'vocab_size': 40, 'd_model': 16, 'd_kv': 8, 'num_layers': 2, 'num_heads': 2, 'd_ff': 32}
    example, encoder = {'input_ids': ids(), 'decoder_input_ids': ids()}, {'model_types': [TinyEncoder()]}
    for at in ('decoder.block.*', 'encoder.block.*'):
        net = T5ForConditionalGeneration(T5Config(**size, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2))
        model = strong(text_conditioned(net, at, 'attention', example=example, **encoder))
        if at.startswith('decoder'):
            torch.testing.assert_close(generated(model), generated(model, use_cache=False))
        else:
            with pytest.warns(
                UserWarning, match=r"'encoder.block.0', 'encoder.block.1' ran before this call of the model and not"
            ):
                generated(model)
            model.get_encoder()(ids())
            model(**example, **CALL)  # which runs all of them


def test_methods_of_a_bound_model(writer):
    bound = writer.bind(**CALL)
    torch.testing.assert_close(bound.generate(ids(), max_new_tokens=12, do_sample=False), generated(writer))


def test_further_branches_have_caches_of_their_own(writer):
    several = {'texts': [TEXTS, TEXTS[::-1], ['a square']], 'guidance': guidance.Compose((1.0, 2.0, 0.5)), 'cond_scale': 2.0}
    torch.testing.assert_close(generated(writer, **several), generated(writer, use_cache=False, **several))


def test_a_cache_that_holds_words_already_is_refused(writer):
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.no_grad():
        writer(ids(), texts=TEXTS, past_key_values=cache)
        with pytest.raises(ConfigError, match="argument 'past_key_values' was changed by the pass of one branch"):
            writer(ids()[:, :1], **CALL, past_key_values=cache)


def test_a_loop_by_hand(writer):
    from transformers import DynamicCache

    expected, tokens, cache = generated(writer, use_cache=False), ids(), DynamicCache()
    with torch.no_grad():
        step = tokens
        for _ in range(12):
            out = writer(step, **CALL, past_key_values=cache)
            cache, step = out.past_key_values, out.logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat((tokens, step), dim=1)
    torch.testing.assert_close(tokens, expected)
    assert cache.get_seq_length() == 16
    assert [one.get_seq_length() for one in cache] == [16, 16]
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert copied.of('null').get_seq_length() == 16


class Shelf:
    def __init__(self, *books):
        self.books, self.count = list(books), len(books)

    def add(self, book):
        self.books.append(book)
        return len(self.books)


def test_what_is_one_per_branch_is_asked_like_one():
    shelves = PerBranch((Shelf('a'), Shelf('b', 'c')))
    assert shelves.count(3) == 0  # a tuple's own methods come first
    assert shelves.books == ['a', 'b', 'c']
    assert shelves.add('d') == 2
    assert [shelf.books for shelf in shelves] == [['a', 'd'], ['b', 'c', 'd']]
    assert not hasattr(shelves, 'windows')
    several = PerBranch((1, 2, 3, 4), ('cond', 'conds', 'conds', 'null'))
    assert [several.of('conds', place) for place in (0, 1)] == [2, 3]
    assert [several.of(branch) for branch in ('null', 'weak')] == [4, 1]


@pytest.mark.parametrize('search', ['generate', 'beam_search'])
def test_x_transformers(search):
    repair_torchvision()
    lucid = pytest.importorskip('x_transformers')
    torch.manual_seed(0)
    layers = lucid.Decoder(dim=16, depth=2, heads=2, attn_dim_head=32, rotary_pos_emb=True)
    net = lucid.TransformerWrapper(num_tokens=40, max_seq_len=64, attn_layers=layers).eval()
    at = 'attn_layers.layers.*.1'
    writer = lucid.AutoregressiveWrapper(strong(text_conditioned(net, at, example=ids(), model_types=[TinyEncoder()])))
    if not hasattr(writer, search):
        pytest.skip('this release has no beams')
    call = {'texts': TEXTS[:1], 'cond_scale': 3.0}
    how = {'temperature': 0.0} if search == 'generate' else {'beams': 3}
    runs = [getattr(writer, search)(ids(), 10, cache_kv=cache_kv, **how, **call) for cache_kv in (False, True)]
    torch.testing.assert_close(*runs)
